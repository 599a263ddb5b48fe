package edge

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// page404 is byte for byte what Lightsail answers for a service that is not there.
const page404 = "<!DOCTYPE html>\n" +
	"<html>\n" +
	"<head><title>404 No Such Service</title></head>\n" +
	"<body bgcolor=\"white\">\n" +
	"<center><h1>404 No Such Service</h1></center>\n" +
	"</body>\n" +
	"</html>"

// pageFormat is page404 with a title (twice) and a line of detail in HTML.
const pageFormat = "<!DOCTYPE html>\n" +
	"<html>\n" +
	"<head><title>%[1]s</title></head>\n" +
	"<body bgcolor=\"white\">\n" +
	"<center><h1>%[1]s</h1></center>\n" +
	"%[2]s" +
	"</body>\n" +
	"</html>"

// title is the heading of the error page for status. The words are those that AWS load balancers use.
func title(status int) string {
	switch status {
	case http.StatusServiceUnavailable:
		return "503 Service Temporarily Unavailable"
	case http.StatusGatewayTimeout:
		return "504 Gateway Time-out"
	case http.StatusNotFound:
		return "404 No Such Service"
	default:
		return strconv.Itoa(status) + " " + http.StatusText(status)
	}
}

// errorPage is the edge's own answer with status. The id of the request is shown so that a user can name it and an operator
// can find it in the log. It must be valid (see requestID), which makes it safe in HTML.
func errorPage(status int, id string) string {
	if status == http.StatusNotFound {
		return page404
	}
	return fmt.Sprintf(pageFormat, title(status), "<center>Request ID: "+id+"</center>\n")
}

// writeError answers with the error page for status.
func (x *exchange) writeError(r *http.Request, status int) {
	h := x.client.Header()
	clear(h) // of what a failed attempt left there
	page, contentType := x.errorAnswer(h, status)
	writePage(x.client, r, status, page, contentType)
}

// errorAnswer returns the error page for status, the service's own if it has one, and sets the headers that belong to it.
func (x *exchange) errorAnswer(h http.Header, status int) (page, contentType string) {
	contentType = "text/html; charset=utf-8"
	own := false
	if x.guard != nil {
		page, own = x.guard.rules.ErrorPage(status, x.id)
	}
	if !own {
		page, contentType = errorPage(status, x.id), "text/html"
	}
	h.Set(headerRequestID, x.id)
	if status >= 500 {
		h.Set("Cache-Control", "no-store")
	}
	if x.retry > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((x.retry+time.Second-1)/time.Second), 10))
	}
	return page, contentType
}

func writePage(w http.ResponseWriter, r *http.Request, status int, page, contentType string) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(page)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write([]byte(page)) // the client may be gone
	}
}
