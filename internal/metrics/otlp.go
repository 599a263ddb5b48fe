package metrics

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

const (
	// pushEvery is OpenTelemetry's own default.
	pushEvery   = time.Minute
	pushTimeout = 10 * time.Second
	// maxReply bounds how much is read of a collector's answer.
	maxReply = 64 << 10
)

// Pusher sends everything that /metrics shows to an OpenTelemetry collector, by OTLP over HTTP. The values are sums since
// the start, so a push that fails loses nothing: there is no queue, and the next one has it all.
type Pusher struct {
	// URL is the whole address: http://collector:4318/v1/metrics.
	URL string
	// Header is sent with each push, for instance an API key. It is never logged.
	Header http.Header
	// Every is how often. Zero means once a minute.
	Every    time.Duration
	Families func(context.Context) []Family
	Started  time.Time
	Build    string
	Host     string
	Log      *slog.Logger

	failing bool
}

// Run pushes until ctx ends, and once more then.
func (p *Pusher) Run(ctx context.Context) error {
	every := p.Every
	if every == 0 {
		every = pushEvery
	}
	client := &http.Client{Timeout: pushTimeout}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			p.try(context.WithoutCancel(ctx), client)
			return nil
		case <-tick.C:
			p.try(ctx, client)
		}
	}
}

// try pushes, and logs when it begins or ceases to fail.
func (p *Pusher) try(ctx context.Context, client *http.Client) {
	err := p.push(ctx, client)
	switch {
	case err != nil && !p.failing && ctx.Err() == nil:
		p.Log.WarnContext(ctx, "metrics could not be sent to the OpenTelemetry collector", "error", err)
		p.failing = true
	case err == nil && p.failing:
		p.Log.InfoContext(ctx, "metrics are sent to the OpenTelemetry collector again")
		p.failing = false
	}
}

func (p *Pusher) push(ctx context.Context, client *http.Client) error {
	var body bytes.Buffer
	z := gzip.NewWriter(&body)
	if _, err := z.Write(p.encode(p.Families(ctx), time.Now())); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL, &body)
	if err != nil {
		return err
	}
	maps.Copy(req.Header, p.Header)
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("Content-Encoding", "gzip")
	req.Header.Set("User-Agent", "trysail/"+p.Build)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxReply)) // so that the connection can be used again
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the collector answered %s", resp.Status)
	}
	return nil
}

// The numbers of fields in opentelemetry/proto/metrics/v1 and what it uses. They are written by hand because the types
// that the compiler makes of them would cost every container shim time at its start; a test decodes with those types.
const (
	requestResourceMetrics = 1

	resourceMetricsResource = 1
	resourceMetricsScope    = 2
	resourceAttributes      = 1
	scopeMetricsScope       = 1
	scopeMetricsMetrics     = 2
	scopeName               = 1
	scopeVersion            = 2

	keyValueKey    = 1
	keyValueValue  = 2
	anyValueString = 1

	metricName        = 1
	metricDescription = 2
	metricUnit        = 3
	metricGauge       = 5
	metricSum         = 7
	metricHistogram   = 9

	dataPoints     = 1
	temporality    = 2
	sumIsMonotonic = 3
	cumulative     = 2

	pointStart      = 2
	pointTime       = 3
	numberAsDouble  = 4
	numberAttribute = 7

	histogramCount     = 4
	histogramSum       = 5
	histogramBuckets   = 6
	histogramBounds    = 7
	histogramAttribute = 9
)

// encode makes an ExportMetricsServiceRequest.
func (p *Pusher) encode(families []Family, now time.Time) []byte {
	scope := text(text(nil, scopeName, "github.com/trysail/trysail"), scopeVersion, p.Build)
	metrics := message(nil, scopeMetricsScope, scope)
	for _, f := range families {
		metrics = message(metrics, scopeMetricsMetrics, p.metric(f, now))
	}
	resource := message(nil, resourceMetricsResource, attributes(nil, resourceAttributes,
		[]Label{{"service.name", "trysail"}, {"service.version", p.Build}, {"host.name", p.Host}}))
	return message(nil, requestResourceMetrics, message(resource, resourceMetricsScope, metrics))
}

func (p *Pusher) metric(f Family, now time.Time) []byte {
	// OpenTelemetry's names have no suffix for what only grows; who turns them into Prometheus' adds it again.
	b := text(nil, metricName, strings.TrimSuffix(f.Name, "_total"))
	b = text(b, metricDescription, f.Help)
	b = text(b, metricUnit, unit(f.Name))
	var points []byte
	for _, s := range f.Samples {
		points = message(points, dataPoints, p.point(f.Kind, s, now))
	}
	switch f.Kind {
	case Counter:
		points = varint(varint(points, temporality, cumulative), sumIsMonotonic, 1)
		return message(b, metricSum, points)
	case HistogramKind:
		return message(b, metricHistogram, varint(points, temporality, cumulative))
	default: // Gauge
		return message(b, metricGauge, points)
	}
}

// unit is the one in a family's name, in OpenTelemetry's spelling.
func unit(name string) string {
	switch name = strings.TrimSuffix(name, "_total"); {
	case strings.HasSuffix(name, "_seconds"):
		return "s"
	case strings.HasSuffix(name, "_bytes"):
		return "By"
	}
	return "1"
}

func (p *Pusher) point(kind Kind, s Sample, now time.Time) []byte {
	var b []byte
	if kind != Gauge {
		b = fixed(b, pointStart, uint64(p.Started.UnixNano()))
	}
	b = fixed(b, pointTime, uint64(now.UnixNano()))
	if s.Histogram == nil {
		return attributes(fixed(b, numberAsDouble, math.Float64bits(s.Value)), numberAttribute, s.Labels)
	}
	bounds, counts := buckets(s.Histogram)
	var packedCounts, packedBounds []byte
	var count int64
	for _, n := range counts {
		packedCounts = protowire.AppendFixed64(packedCounts, uint64(n)) //nolint:gosec // counts are not negative
		count += n
	}
	for _, bound := range bounds {
		packedBounds = protowire.AppendFixed64(packedBounds, math.Float64bits(bound))
	}
	b = fixed(b, histogramCount, uint64(count))
	b = fixed(b, histogramSum, math.Float64bits(total(s.Histogram).Seconds()))
	b = message(message(b, histogramBuckets, packedCounts), histogramBounds, packedBounds)
	return attributes(b, histogramAttribute, s.Labels)
}

func attributes(b []byte, field protowire.Number, labels []Label) []byte {
	for _, l := range labels {
		b = message(b, field, message(text(nil, keyValueKey, l.Name), keyValueValue, text(nil, anyValueString, l.Value)))
	}
	return b
}

func message(b []byte, field protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), content)
}

func text(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), strings.ToValidUTF8(s, "�"))
}

func varint(b []byte, field protowire.Number, n uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), n)
}

func fixed(b []byte, field protowire.Number, n uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), n)
}
