package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// errAbsent says that the daemon does not run, or does not have the image.
var errAbsent = errors.New("absent")

// daemon is a Docker engine, or something that speaks its API.
type daemon struct {
	kind    string // "Docker" or "Podman"
	address string // unix:///path or tcp://host:port
}

func (d daemon) String() string { return d.kind + " at " + d.address }

// dockerSockets is where Docker listens.
func dockerSockets(getenv func(string) string) []daemon {
	if host := getenv("DOCKER_HOST"); host != "" {
		return []daemon{{"Docker", host}}
	}
	return []daemon{{"Docker", "unix:///var/run/docker.sock"}}
}

// podmanSockets is where Podman listens, the user's own first.
func podmanSockets(getenv func(string) string) (list []daemon) {
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		list = append(list, daemon{"Podman", "unix://" + dir + "/podman/podman.sock"})
	}
	return append(list, daemon{"Podman", "unix:///run/podman/podman.sock"})
}

// reason is why the daemon did not give the image.
func (d daemon) reason(err error) string {
	return strings.TrimSuffix(err.Error(), ": "+errAbsent.Error())
}

// client connects to the daemon. Plain TCP is for this machine alone: whoever speaks to a Docker engine is root there.
func (d daemon) client() (*http.Client, error) {
	var network, address string
	switch {
	case strings.HasPrefix(d.address, "unix://"):
		network, address = "unix", hostOf(d.address)
	case strings.HasPrefix(d.address, "tcp://"), strings.HasPrefix(d.address, "http://"):
		network, address = "tcp", strings.TrimSuffix(hostOf(d.address), "/")
		host, _, err := net.SplitHostPort(address)
		ip, ipErr := netip.ParseAddr(host)
		if err != nil || host != "localhost" && (ipErr != nil || !ip.IsLoopback()) {
			return nil, fmt.Errorf("DOCKER_HOST is %s: a Docker engine on another machine cannot be used; save the image to a file there (docker save) and push the file", d.address)
		}
	default:
		return nil, fmt.Errorf("DOCKER_HOST is %s: only unix:// and tcp:// to this machine are supported; save the image to a file (docker save) and push the file", d.address)
	}
	dialer := net.Dialer{Timeout: 10 * time.Second}
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
		DisableKeepAlives: true,
	}}, nil
}

// save hands the tar stream of an image to read. The error wraps errAbsent when another daemon may have the image.
func (d daemon) save(ctx context.Context, name string, read func(io.Reader) error) error {
	c, err := d.client()
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/images/"+(&url.URL{Path: name}).EscapedPath()+"/get", nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("does not run: %w", errAbsent)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no permission for its socket; run as root or as a member of its group: %w", errAbsent)
	case err != nil:
		return fmt.Errorf("asking %s: %w", d, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return read(resp.Body)
	}
	message := answerText(resp.Body)
	// Podman answers 500 for an image that it does not have.
	if resp.StatusCode == http.StatusNotFound || strings.Contains(message, "no such image") || strings.Contains(message, "image not known") {
		return fmt.Errorf("does not have it: %w", errAbsent)
	}
	return fmt.Errorf("%s answered %s: %s", d, resp.Status, message)
}

// answerText reads the text of an error of the Docker API.
func answerText(body io.Reader) string {
	raw, err := io.ReadAll(io.LimitReader(body, 4<<10))
	var e struct {
		Message string `json:"message"`
	}
	if err != nil || json.Unmarshal(raw, &e) != nil || e.Message == "" {
		return strings.TrimSpace(string(raw))
	}
	return e.Message
}
