package copies

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

const (
	// maxBody bounds what is taken at once, and maxPiece one piece of it, in bytes.
	maxBody  = 64 << 20
	maxPiece = 32 << 20
	// maxHead bounds what stands before a piece.
	maxHead = 4 << 10
)

// Handler answers other servers below Path.
func (c *Copies) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path+"state", c.tellState)
	mux.HandleFunc("POST "+Path+"{$}", c.take)
	mux.HandleFunc("POST "+Path+"latest", c.giveLatest)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !c.isServer(r) {
			http.Error(w, "This is for other servers of the same installation.", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// isServer compares the secret, in a time that tells nothing.
func (c *Copies) isServer(r *http.Request) bool {
	want, err := c.Token(r.Context())
	got, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	a, b := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(got))
	return err == nil && ok && want != "" && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// tellState says how far the copies of a server's files have come.
func (c *Copies) tellState(w http.ResponseWriter, r *http.Request) {
	s := state{Self: c.Self}
	if origin := r.FormValue("origin"); origin != c.Self {
		if !isOrigin(origin) {
			http.Error(w, "This is not the name of a server.", http.StatusBadRequest)
			return
		}
		var err error
		if s.Parts, err = c.filesOf(origin); err != nil {
			c.refuse(w, r, err)
			return
		}
	}
	c.answer(w, r, s)
}

// isOrigin reports whether a text may name a server: it becomes the name of a directory.
func isOrigin(text string) bool {
	return len(text) >= 8 && len(text) <= 64 && strings.IndexFunc(text, func(r rune) bool { return (r < '0' || r > '9') && (r < 'A' || r > 'Z') }) < 0
}

// take adds pieces to copies, and says of each how far the copy has come then.
func (c *Copies) take(w http.ResponseWriter, r *http.Request) {
	body := bufio.NewReaderSize(http.MaxBytesReader(w, r.Body, maxBody), maxHead)
	var have []int64
	for {
		head, data, err := readPiece(body)
		if errors.Is(err, io.EOF) {
			c.answer(w, r, have)
			return
		}
		if err == nil {
			err = c.add(head, data, &have)
		}
		if err != nil {
			c.refuse(w, r, err)
			return
		}
	}
}

func readPiece(body *bufio.Reader) (head piece, data []byte, err error) {
	line, err := body.ReadSlice('\n')
	if err != nil {
		if len(line) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return head, nil, err
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return head, nil, fmt.Errorf("reading what a piece is: %w", err)
	}
	if head.Size < 0 || head.Size > maxPiece || head.From < 0 || head.Next < head.From || !isOrigin(head.Origin) {
		return head, nil, fmt.Errorf("a piece of %q that cannot be", head.Name)
	}
	data = make([]byte, head.Size)
	if _, err := io.ReadFull(body, data); err != nil {
		return head, nil, fmt.Errorf("reading a piece: %w", errors.Join(io.ErrUnexpectedEOF, err))
	}
	return head, data, nil
}

func (c *Copies) add(head piece, data []byte, have *[]int64) error {
	part := c.part(head.Part)
	if part == nil {
		return fmt.Errorf("there are no %q here", head.Part)
	}
	n := head.Next // nobody takes back what is his own
	if head.Origin != c.Self {
		var err error
		if n, err = part.AddPiece(head.Origin, head.Name, head.From, head.Next, data, time.Unix(0, head.At)); err != nil {
			return fmt.Errorf("writing a copy of %s: %w", head.Name, err)
		}
	}
	*have = append(*have, n)
	return nil
}

// giveLatest sends the server that asks everything that there is now.
func (c *Copies) giveLatest(w http.ResponseWriter, r *http.Request) {
	who := r.FormValue("for")
	for _, p := range c.working() {
		if p.origin() == who && who != "" && p.flush(r.Context()) {
			c.answer(w, r, struct{}{})
			return
		}
	}
	http.Error(w, "This server is not known here yet.", http.StatusConflict)
}

func (c *Copies) answer(w http.ResponseWriter, r *http.Request, answer any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		c.Log.DebugContext(r.Context(), "another server did not wait for its answer", "error", err)
	}
}

func (c *Copies) refuse(w http.ResponseWriter, r *http.Request, err error) {
	c.Log.WarnContext(r.Context(), "copies of another server's files cannot be kept", "error", err)
	http.Error(w, "The copies cannot be kept: see this server's log.", http.StatusInternalServerError)
}
