package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/websocket"
)

func newHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", root)
	mux.HandleFunc("/health", health)
	mux.HandleFunc("/env", environment)
	mux.HandleFunc("/request", request)
	mux.HandleFunc("/status", status)
	mux.HandleFunc("/sleep", sleep)
	mux.HandleFunc("/stream", stream)
	mux.HandleFunc("/upload", upload)
	mux.HandleFunc("/download", download)
	mux.HandleFunc("/log", logLine)
	mux.HandleFunc("/fetch", fetch)
	mux.HandleFunc("/exit", exit)
	mux.HandleFunc("/alloc", alloc)
	mux.HandleFunc("/redis", redis)
	mux.Handle("/ws", websocket.Server{Handler: echo})
	return mux
}

func root(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("X-Instance", instance)
	if g := os.Getenv("GREETING"); g != "" {
		fmt.Fprintln(w, g)
	}
	fmt.Fprintf(w, "version %s\n", env("VERSION", "0"))
}

func health(w http.ResponseWriter, _ *http.Request) {
	if code, err := strconv.Atoi(os.Getenv("FAIL_HEALTH")); err == nil {
		http.Error(w, "not healthy: the database does not answer", code)
		return
	}
	fmt.Fprintln(w, "healthy")
}

// environment answers the process's environment as a JSON object.
func environment(w http.ResponseWriter, _ *http.Request) {
	vars := make(map[string]string)
	for _, kv := range os.Environ() {
		k, v, _ := strings.Cut(kv, "=")
		vars[k] = v
	}
	writeJSON(w, vars)
}

// request answers what arrived: what a load balancer adds and removes shows here.
func request(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, map[string]any{
		"method": r.Method,
		"uri":    r.RequestURI,
		"host":   r.Host,
		"proto":  r.Proto,
		"remote": r.RemoteAddr,
		"header": r.Header,
		"length": r.ContentLength,
		"args":   os.Args[1:],
	})
}

func status(w http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.FormValue("code"))
	if err != nil || code < 200 || code > 599 {
		http.Error(w, "code must be 200 to 599", http.StatusBadRequest)
		return
	}
	if code >= 300 && code < 400 {
		w.Header().Set("Location", r.FormValue("location"))
	}
	w.WriteHeader(code)
}

// sleep answers after ?d=2s.
func sleep(w http.ResponseWriter, r *http.Request) {
	d, err := time.ParseDuration(r.FormValue("d"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(d):
		fmt.Fprintf(w, "version %s slept %s\n", env("VERSION", "0"), d)
	case <-r.Context().Done():
	}
}

// stream writes ?n= lines, one every ?d=, each flushed by itself.
func stream(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.FormValue("n"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	d, err := time.ParseDuration(r.FormValue("d"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	for i := range n {
		fmt.Fprintf(w, "data: %d\n\n", i)
		if rc.Flush() != nil {
			return
		}
		select {
		case <-time.After(d):
		case <-r.Context().Done():
			return
		}
	}
}

// upload answers the length and the SHA-256 of the body, without keeping it.
func upload(w http.ResponseWriter, r *http.Request) {
	h := sha256.New()
	n, err := io.Copy(h, r.Body)
	if err != nil {
		fmt.Fprintln(os.Stderr, "web: reading an upload:", err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%d %s\n", n, hex.EncodeToString(h.Sum(nil)))
}

// download answers ?n= bytes that repeat 0…250; with ?chunked=1 it does not say how many beforehand.
func download(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if r.FormValue("chunked") == "" {
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	block := make([]byte, 251*256)
	for i := range block {
		block[i] = byte(i % 251)
	}
	for n > 0 {
		m, err := w.Write(block[:min(n, int64(len(block)))])
		if err != nil {
			return
		}
		n -= int64(m)
	}
}

// logLine writes ?line= to standard output, or to standard error with ?stream=stderr; ?n= times. With ?id=1 the request's
// id stands before it.
func logLine(w http.ResponseWriter, r *http.Request) {
	out := os.Stdout
	if r.FormValue("stream") == "stderr" {
		out = os.Stderr
	}
	n, err := strconv.Atoi(r.FormValue("n"))
	if err != nil {
		n = 1
	}
	line := r.FormValue("line")
	if r.FormValue("id") != "" {
		line = r.Header.Get("X-Request-Id") + " " + line
	}
	for range n {
		fmt.Fprintln(out, line)
	}
	fmt.Fprintln(w, "written")
}

// exit ends the process with ?code= before it answers.
func exit(_ http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.FormValue("code"))
	if err != nil {
		code = 1
	}
	os.Exit(code)
}

func alloc(w http.ResponseWriter, r *http.Request) {
	if err := allocate(r.FormValue("mb")); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintln(w, "allocated")
}

// redis counts in the Redis of the same pod: it answers "visit 1", "visit 2", …
func redis(w http.ResponseWriter, r *http.Request) {
	d := net.Dialer{Timeout: 2 * time.Second}
	conn, err := d.DialContext(r.Context(), "tcp", "localhost:6379")
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	fmt.Fprint(conn, "INCR visits\r\n")
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, ":") {
		http.Error(w, fmt.Sprintf("redis answered %q (%v)", line, err), http.StatusBadGateway)
		return
	}
	fmt.Fprintf(w, "visit %s\n", strings.TrimSpace(line[1:]))
}

// echo sends every WebSocket message back.
func echo(ws *websocket.Conn) {
	var message string
	for websocket.Message.Receive(ws, &message) == nil {
		if websocket.Message.Send(ws, message) != nil {
			return
		}
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		fmt.Fprintln(os.Stderr, "web: writing an answer:", err)
	}
}
