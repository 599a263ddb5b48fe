package ship

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// requestTime bounds one request.
	requestTime = 30 * time.Second
	// maxAnswer bounds what is read of an answer, in bytes.
	maxAnswer = 64 << 10
)

// otlpSender speaks OTLP/HTTP in its JSON form (opentelemetry.io/docs/specs/otlp). It needs no generated types, whose
// start every container's shim would pay for.
type otlpSender struct {
	dest   Destination
	host   string
	url    string
	client *http.Client
}

func newOTLP(d Destination, host string) (*otlpSender, error) {
	cfg, err := d.tls()
	if err != nil {
		return nil, err
	}
	return &otlpSender{
		dest: d, host: host, url: strings.TrimPrefix(d.String(), "otlp+"),
		client: &http.Client{
			Timeout: requestTime,
			Transport: &http.Transport{
				Proxy: http.ProxyFromEnvironment, TLSClientConfig: cfg, ForceAttemptHTTP2: true, TLSHandshakeTimeout: connectTime,
				MaxIdleConns: 2, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: requestTime,
			},
			// A redirect would take the headers, which are secret, to somebody else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func (o *otlpSender) send(ctx context.Context, lines []record) (rejected int, err error) {
	body, err := json.Marshal(o.request(lines))
	if err != nil {
		return 0, err
	}
	if !o.dest.plain {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		if _, err := z.Write(body); err != nil {
			return 0, err
		}
		if err := z.Close(); err != nil {
			return 0, err
		}
		body = packed.Bytes()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	if req.Header, err = o.dest.readHeaders(); err != nil { // read again each time: tokens are renewed
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "trysail")
	if !o.dest.plain {
		req.Header.Set("Content-Encoding", "gzip")
	}
	resp, err := o.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, fmt.Errorf("reading the answer of %s: %w", o.dest, err)
	}
	return o.judge(resp, answer, len(lines))
}

// judge says what an answer means.
func (o *otlpSender) judge(resp *http.Response, answer []byte, sent int) (rejected int, err error) {
	failure := fmt.Errorf("%s answered %s", o.dest, resp.Status)
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return min(rejectedBy(answer), sent), nil
	case code == http.StatusBadRequest, code == http.StatusRequestEntityTooLarge, code == http.StatusUnprocessableEntity:
		return 0, fmt.Errorf("%w: %w", errRejected, failure)
	}
	return 0, &busyError{retryAfter(resp.Header.Get("Retry-After"), time.Now()), failure}
}

// rejectedBy reads how many lines a receiver has not taken although it says that all is well.
func rejectedBy(answer []byte) int {
	var a struct {
		PartialSuccess struct {
			RejectedLogRecords json.RawMessage `json:"rejectedLogRecords"` // a string, as 64-bit numbers are in this form; some send a number
		} `json:"partialSuccess"`
	}
	if json.Unmarshal(answer, &a) != nil {
		return 0 // an empty answer, or one that is not JSON
	}
	n, err := strconv.Atoi(strings.Trim(string(a.PartialSuccess.RejectedLogRecords), `"`))
	if err != nil {
		return 0
	}
	return max(n, 0)
}

// retryAfter reads the header of that name: seconds or a date.
func retryAfter(text string, now time.Time) time.Duration {
	if n, err := strconv.Atoi(strings.TrimSpace(text)); err == nil && n >= 0 {
		return min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return min(at.Sub(now), maxRetryAfter)
	}
	return 0
}

// The JSON form of opentelemetry.proto.collector.logs.v1.ExportLogsServiceRequest, as far as it is used here.
type (
	otlpRequest struct {
		ResourceLogs []*otlpResource `json:"resourceLogs"`
	}
	otlpResource struct {
		Resource struct {
			Attributes []otlpAttribute `json:"attributes"`
		} `json:"resource"`
		ScopeLogs [1]otlpScope `json:"scopeLogs"`
	}
	otlpScope struct {
		Scope struct {
			Name string `json:"name"`
		} `json:"scope"`
		LogRecords []otlpRecord `json:"logRecords"`
	}
	otlpRecord struct {
		TimeUnixNano         string          `json:"timeUnixNano"`
		ObservedTimeUnixNano string          `json:"observedTimeUnixNano"`
		Body                 otlpValue       `json:"body"`
		Attributes           []otlpAttribute `json:"attributes"`
	}
	otlpAttribute struct {
		Key   string    `json:"key"`
		Value otlpValue `json:"value"`
	}
	otlpValue struct {
		StringValue *string `json:"stringValue,omitempty"`
		BytesValue  *string `json:"bytesValue,omitempty"` // base64
		IntValue    *string `json:"intValue,omitempty"`
	}
)

func textValue(s string) otlpValue { return otlpValue{StringValue: &s} }

// request makes the request, with one resource per container.
func (o *otlpSender) request(lines []record) *otlpRequest {
	type key struct {
		service, pod, container string
		version                 int
	}
	req := &otlpRequest{ResourceLogs: []*otlpResource{}}
	byKey := map[key]*otlpResource{}
	observed := strconv.FormatInt(time.Now().UnixNano(), 10)
	for i := range lines {
		r := &lines[i]
		k := key{r.service, r.pod, r.container, r.version}
		res := byKey[k]
		if res == nil {
			res = o.resource(r)
			byKey[k] = res
			req.ResourceLogs = append(req.ResourceLogs, res)
		}
		out := otlpRecord{
			TimeUnixNano: strconv.FormatInt(r.at.UnixNano(), 10), ObservedTimeUnixNano: observed,
			Attributes: []otlpAttribute{{"trysail.log", textValue(r.kind)}},
		}
		if text := string(r.text); utf8.ValidString(text) {
			out.Body = textValue(text)
		} else {
			packed := base64.StdEncoding.EncodeToString(r.text)
			out.Body = otlpValue{BytesValue: &packed}
		}
		if r.kind == kindContainer {
			out.Attributes = append(out.Attributes, otlpAttribute{"log.iostream", textValue(streamName(r.stderr))})
		}
		scope := &res.ScopeLogs[0]
		scope.LogRecords = append(scope.LogRecords, out)
	}
	return req
}

// resource describes whose line it is, in the words of OpenTelemetry's semantic conventions where it has some.
func (o *otlpSender) resource(r *record) *otlpResource {
	res := &otlpResource{}
	add := func(key, value string) {
		if value != "" {
			res.Resource.Attributes = append(res.Resource.Attributes, otlpAttribute{key, textValue(value)})
		}
	}
	add("service.name", r.service)
	if r.version > 0 {
		add("service.version", strconv.Itoa(r.version))
	}
	add("service.instance.id", r.pod)
	add("container.name", r.container)
	add("host.name", o.host)
	res.ScopeLogs[0].Scope.Name = "trysail"
	return res
}
