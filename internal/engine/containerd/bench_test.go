package containerd

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"
)

func BenchmarkCopyLog(b *testing.B) {
	var text bytes.Buffer
	lines := 0
	for ; text.Len() < 8<<20; lines++ {
		fmt.Fprintf(&text, "level=info msg=request method=GET path=/api/v1/items/%d status=200 bytes=48213 duration=12ms\n", lines)
	}
	b.SetBytes(int64(text.Len()))
	l := openLog(filepath.Join(b.TempDir(), "app.log"), 1<<30, func(msg string, err error) { b.Error(msg, err) })
	defer l.close()
	for b.Loop() {
		copyLog(l, 0, bytes.NewReader(text.Bytes()))
	}
	b.ReportMetric(float64(lines)*float64(b.N)/b.Elapsed().Seconds(), "lines/s")
}
