package image

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/trysail/trysail"
)

const (
	tagTimeout = 2 * time.Second // the answer is known already: tags are only a help
	tagPage    = "1000"          // as many as registries give at once
	tagsShown  = 5
)

// tags asks for the repository's first page of tags. Without an error there may be none.
func (q *query) tags(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, tagTimeout)
	defer cancel()
	repo := q.ref.Context()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+repo.RegistryStr()+"/v2/"+repo.RepositoryStr()+"/tags/list?n="+tagPage, nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: q.session, CheckRedirect: noRedirect}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := transport.CheckError(resp, http.StatusOK); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	var list struct {
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Tags, func(tag string) bool { return !isUsefulTag(tag) }), nil
}

func noRedirect(*http.Request, []*http.Request) error { return errors.New("redirect of a tag list") }

// isUsefulTag drops tags that stand for signatures, and what is no tag and would forge our sentence.
func isUsefulTag(tag string) bool {
	return !strings.HasPrefix(tag, "sha256-") && !strings.ContainsAny(tag, "/@:") && trysail.ValidateImageName("x:"+tag) == nil
}

// newest returns up to n tags: latest, then by version number, the highest first. Registries do not tell dates.
func newest(tags []string, n int) []string {
	sorted := slices.Clone(tags)
	slices.SortFunc(sorted, func(a, b string) int {
		if (a == "latest") != (b == "latest") {
			if a == "latest" {
				return -1
			}
			return 1
		}
		return compareNatural(b, a)
	})
	return sorted[:min(n, len(sorted))]
}

// compareNatural compares texts with the numbers in them as numbers; a text without numbers comes first.
func compareNatural(a, b string) int {
	for a != "" && b != "" {
		if da, db := digits(a), digits(b); da != "" && db != "" {
			na, nb := strings.TrimLeft(da, "0"), strings.TrimLeft(db, "0")
			if len(na) != len(nb) {
				return len(na) - len(nb)
			}
			if c := strings.Compare(na, nb); c != 0 {
				return c
			}
			a, b = a[len(da):], b[len(db):]
			continue
		} else if (da == "") != (db == "") {
			if da == "" {
				return -1
			}
			return 1
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) string {
	return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
}

// closest returns the tag that tag was probably meant to be, or nothing. Of tags at the same distance it is the newest.
func closest(tags []string, tag string) string {
	best, least := "", max(1, len(tag)/3)+1
	for _, t := range newest(tags, len(tags)) {
		if d := distance(t, tag, least); d < least {
			best, least = t, d
		}
	}
	return best
}

// distance is the number of characters to insert, delete, replace or swap with their neighbour; any value of at least
// most if it is no smaller.
func distance(a, b string, most int) int {
	if len(a)-len(b) >= most || len(b)-len(a) >= most {
		return most
	}
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, above, row = above, row, before
		row[0] = i + 1
		for j := range len(b) {
			replaced := above[j]
			if a[i] != b[j] {
				replaced++
			}
			row[j+1] = min(replaced, row[j]+1, above[j+1]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
