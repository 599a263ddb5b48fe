package containerd

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

func TestAhead_IsWhatItReads(t *testing.T) {
	content := make([]byte, 3*aheadCount*aheadSize+12345)
	_, _ = rand.NewChaCha8([32]byte{}).Read(content)
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		from io.Reader
		want error
	}{
		"whole":      {bytes.NewReader(content), nil},
		"in pieces":  {iotest.HalfReader(bytes.NewReader(content)), nil},
		"with EOF":   {iotest.DataErrReader(bytes.NewReader(content)), nil},
		"broken":     {io.MultiReader(bytes.NewReader(content), iotest.ErrReader(broken)), broken},
		"cut packed": {io.MultiReader(bytes.NewReader(content), iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF},
	} {
		closed := false
		a := newAhead(source{tt.from, &closed})
		got, err := io.ReadAll(a)
		if !errors.Is(err, tt.want) || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if err := a.Close(); err != nil || !closed {
			t.Errorf("%s: Close: %v, closed %v", name, err, closed)
		}
	}
}

func TestAhead_CloseInTheMiddle(t *testing.T) {
	closed := false
	a := newAhead(source{endless{}, &closed})
	if _, err := io.ReadFull(a, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil || !closed {
		t.Errorf("Close: %v, closed %v", err, closed)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

type source struct {
	io.Reader
	closed *bool
}

func (s source) Close() error {
	*s.closed = true
	return nil
}
