package edge

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/trysail/trysail"
)

// The longest texts of a client that get into a line of the access log, in bytes. What is longer is cut.
const (
	maxLoggedPath  = 2048
	maxLoggedQuery = 512
	maxLoggedText  = 256 // method, host, user agent, referer, error
)

// accessLog is where lines about a service go.
type accessLog struct {
	serviceID    string
	healthChecks bool
}

// recorded makes a handler that counts each request of a service and writes its line into the access log.
func (e *Edge) recorded(serve func(x *exchange, r *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{id: requestID(r), began: time.Now(), service: e.router.lookup(r.Host), from: senderOf(r.RemoteAddr, r.Header, e.cfg.TrustedProxies)}
		x.client = newClientWriter(w, x, e.cfg.IdleTimeout)
		if x.service == nil {
			serve(x, r)
			return
		}
		x.counters.Store(x.service.counters)
		broken := true // until serve has returned; it panics when it cannot answer in good order
		defer func() {
			if broken {
				x.end = x.whyBroken(r)
			}
			finish(e, x, x.client.status, func() facts[string] { return factsOf(r) })
		}()
		serve(x, r)
		broken = false
	}
}

// finish counts a request of a service that has ended with a status, 0 if none, and hands its line over. x.end is set if it
// ended too early.
func finish[T text](e *Edge, x *exchange, status int, tell func() facts[T]) {
	now := time.Now()
	took := now.Sub(x.began)
	if x.wasCut.Load() {
		x.end = "stopped" // the pod was, at the end of its drain time
	}
	latency := took
	if status == http.StatusSwitchingProtocols && !x.answered.IsZero() {
		latency = x.answered.Sub(x.began)
	}
	x.counters.Load().request(status, latency)
	log := x.service.view.Load().access
	if log == nil || e.cfg.AccessLog == nil {
		return
	}
	l := lines.Get().(*line) //nolint:errcheck,forcetypeassert // holds nothing else
	f := tell()
	writeLine(l, x, &f, status, took)
	e.cfg.AccessLog(log.serviceID, now, l.b)
	lines.Put(l)
}

// whyBroken says why the client did not get the whole answer.
func (x *exchange) whyBroken(r *http.Request) string {
	switch {
	case x.client.stalled.Load() || x.body != nil && x.body.stalled.Load():
		return "client-stalled"
	case r.Context().Err() != nil || x.client.failed.Load():
		return "client-left"
	default:
		return "pod-failed"
	}
}

// line is a line in the making. It is used again and again.
type line struct {
	b       []byte
	scratch []byte
	clock   clock
}

var lines = sync.Pool{New: func() any { return new(line) }}

// factsOf collects what the log tells of r.
func factsOf(r *http.Request) facts[string] {
	f := facts[string]{
		method: r.Method, host: r.Host, path: r.URL.EscapedPath(), query: r.URL.RawQuery, protocol: r.Proto,
		remote: r.RemoteAddr, agent: r.Header.Get("User-Agent"), referer: r.Header.Get("Referer"),
	}
	if r.TLS != nil {
		f.tls = r.TLS.Version
	}
	return f
}

// writeLine makes l the line of a request, JSON without a newline.
func writeLine[T text](l *line, x *exchange, f *facts[T], status int, took time.Duration) {
	b := l.clock.append(append(l.b[:0], `{"time":`...), x.began)
	b = append(b, `,"service":"`...)
	b = append(b, x.service.name...)
	b = append(b, '"')
	if t := x.last; t != nil {
		b = append(b, `,"version":`...)
		b = strconv.AppendInt(b, int64(t.version), 10)
		b = appendText(b, `,"pod":`, string(t.pod), maxLoggedText)
	}
	if x.from.peer.IsValid() {
		b = append(x.from.client.AppendTo(append(b, `,"client":"`...)), '"')
	} else {
		b = appendText(b, `,"client":`, f.remote, maxLoggedText)
	}
	if x.from.client != x.from.peer {
		b = append(x.from.peer.AppendTo(append(b, `,"proxy":"`...)), '"')
	}
	b = appendText(b, `,"method":`, f.method, maxLoggedText)
	b = appendText(b, `,"host":`, f.host, maxLoggedText)
	b = appendText(b, `,"path":`, f.path, maxLoggedPath)
	if len(f.query) > 0 {
		l.scratch = appendQueryNames(l.scratch[:0], f.query)
		b = appendText(b, `,"query":`, l.scratch, maxLoggedQuery)
	}
	b = appendText(b, `,"protocol":`, f.protocol, maxLoggedText)
	if f.tls != 0 {
		b = append(append(append(b, `,"tls":"`...), tlsVersion(f.tls)...), '"')
	}
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, `,"bytesIn":`...)
	b = strconv.AppendInt(b, x.in.Load(), 10)
	b = append(b, `,"bytesOut":`...)
	b = strconv.AppendInt(b, x.out.Load(), 10)
	b = appendMillis(append(b, `,"duration":`...), took)
	if x.last != nil {
		b = appendMillis(append(b, `,"podDuration":`...), x.inPod)
	}
	b = append(append(append(b, `,"requestId":"`...), x.id...), '"') // valid: see requestID
	if len(f.agent) > 0 {
		b = appendText(b, `,"userAgent":`, f.agent, maxLoggedText)
	}
	if len(f.referer) > 0 {
		l.scratch = appendWithoutQuery(l.scratch[:0], f.referer)
		b = appendText(b, `,"referer":`, l.scratch, maxLoggedText)
	}
	if x.retries > 0 {
		b = append(b, `,"retries":`...)
		b = strconv.AppendInt(b, int64(x.retries), 10)
	}
	if x.end != "" {
		b = append(append(append(b, `,"end":"`...), x.end...), '"')
	}
	if x.failed != nil {
		b = appendText(b, `,"error":`, x.failed.Error(), maxLoggedText)
	}
	l.b = append(b, '}')
}

// logProbe writes the line of a health check, if the service asks for that.
func (e *Edge) logProbe(s *service, t *target, path string, p trysail.Probe) {
	log := s.view.Load().access
	if log == nil || !log.healthChecks || e.cfg.AccessLog == nil {
		return
	}
	var now clock
	b := now.append([]byte(`{"time":`), p.At)
	b = append(append(append(b, `,"service":"`...), s.name...), `","version":`...)
	b = strconv.AppendInt(b, int64(t.version), 10)
	b = appendText(b, `,"pod":`, string(t.pod), maxLoggedText)
	b = appendText(b, `,"method":"GET","host":`, t.addr, maxLoggedText)
	b = appendText(b, `,"path":`, appendWithoutQuery(nil, path), maxLoggedPath)
	b = append(b, `,"protocol":"HTTP/1.1","status":`...)
	b = strconv.AppendInt(b, int64(p.Status), 10)
	b = appendMillis(append(b, `,"duration":`...), p.Took)
	b = appendMillis(append(b, `,"podDuration":`...), p.Took)
	b = append(b, `,"userAgent":"`+probeAgent+`","healthCheck":true,"healthy":`...)
	b = strconv.AppendBool(b, p.OK)
	if p.Error != "" {
		b = appendText(b, `,"error":`, p.Error, maxLoggedText)
	}
	e.cfg.AccessLog(log.serviceID, p.At.Add(p.Took), append(b, '}'))
}

func tlsVersion(v uint16) string {
	switch v {
	case tls.VersionTLS12:
		return "1.2"
	case tls.VersionTLS13:
		return "1.3"
	}
	return tls.VersionName(v)
}

// appendQueryNames appends a query without its values, which often are secrets: "page=&token=". A parameter without a "=" may be
// one as a whole and becomes "*".
func appendQueryNames[T text](b []byte, query T) []byte {
	begin := len(b)
	named, some := false, false // in the current parameter: its name has ended; it is not empty
	for i := range min(len(query), 4*maxLoggedQuery) {
		switch c := query[i]; {
		case c == '&':
			b = append(endName(b, named, some), '&')
			named, some = false, false
			if len(b)-begin > maxLoggedQuery {
				return b
			}
		case named:
		case c == '=':
			named = true
			b = append(b, c)
		default:
			some = true
			b = append(b, c)
		}
	}
	return endName(b, named, some)
}

// endName replaces the parameter at the end of b, if it has no name but only a value.
func endName(b []byte, named, some bool) []byte {
	if named || !some {
		return b
	}
	return append(b[:bytes.LastIndexByte(b, '&')+1], '*')
}

// appendWithoutQuery appends a URL up to its query or fragment, and without user and password.
func appendWithoutQuery[T text](b []byte, url T) []byte {
	begin := len(b)
	for i := range len(url) {
		if url[i] == '?' || url[i] == '#' {
			url = url[:i]
			break
		}
	}
	b = append(b, url...)
	scheme := bytes.Index(b[begin:], []byte("://"))
	if scheme < 0 {
		return b
	}
	authority := begin + scheme + len("://")
	end := bytes.IndexByte(b[authority:], '/')
	if end < 0 {
		end = len(b) - authority
	}
	if at := bytes.LastIndexByte(b[authority:authority+end], '@'); at >= 0 {
		b = slices.Delete(b, authority, authority+at+1)
	}
	return b
}

// appendMillis appends milliseconds with three decimal places.
func appendMillis(b []byte, d time.Duration) []byte {
	us := max(d.Microseconds(), 0)
	b = strconv.AppendInt(b, us/1000, 10)
	rest := us % 1000
	return append(b, '.', byte('0'+rest/100), byte('0'+rest/10%10), byte('0'+rest%10))
}

// clock remembers how a second is written.
type clock struct {
	second int64
	text   []byte
}

// append appends a time in UTC with microseconds, in quotes.
func (c *clock) append(b []byte, at time.Time) []byte {
	if second := at.Unix(); c.text == nil || c.second != second {
		c.second, c.text = second, at.UTC().AppendFormat(c.text[:0], `"2006-01-02T15:04:05.`)
	}
	b = append(b, c.text...)
	us := at.Nanosecond() / 1000
	for unit := 100_000; unit > 0; unit /= 10 {
		b = append(b, byte('0'+us/unit%10))
	}
	return append(b, `Z"`...)
}

// appendText appends key and the text as a JSON string of at most limit bytes, plus what escaping adds.
func appendText[T text](b []byte, key string, s T, limit int) []byte {
	b = append(append(b, key...), '"')
	if len(s) > limit {
		s = s[:limit]
		for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) { // not in the middle of a character
			s = s[:len(s)-1]
		}
		if n := len(s); n > 0 && s[n-1] >= utf8.RuneSelf {
			s = s[:n-1]
		}
	}
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && c != 0x7f {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			if c == '"' || c == '\\' {
				b = append(b, '\\', c)
			} else {
				b = append(b, `\u00`...)
				b = append(b, hexDigits[c>>4], hexDigits[c&15])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(append(b, s[start:i]...), `\ufffd`...)
			start = i + size
		case r < 0xa0: // control characters that terminals obey
			b = append(append(b, s[start:i]...), `\u00`...)
			b = append(b, hexDigits[r>>4], hexDigits[r&15])
			start = i + size
		}
		i += size
	}
	return append(append(b, s[start:]...), '"')
}

const hexDigits = "0123456789abcdef"
