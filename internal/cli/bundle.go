package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"

	"github.com/trysail/trysail"
)

// maxBundledLog is how much of each container's log goes into a bundle, in bytes: the newest lines.
const maxBundledLog = 4 << 20

// bundle writes everything that is kept of a version into one archive. The values of its environment variables are masked.
// version 0 is the newest one that something was wrong with.
func (a *App) bundle(ctx context.Context, c *client, service string, version int, path string) error {
	if version == 0 {
		d, err := c.diagnosis(ctx, service, 0)
		if err != nil {
			return err
		}
		version = d.Version
	}
	files, err := a.bundled(ctx, c, service, version)
	if err != nil {
		return err
	}
	if path == "-" {
		return pack(a.Out, files)
	}
	// It may hold what an attacker would like to read, so nobody else may.
	f, err := os.CreateTemp(filepath.Dir(path), ".bundle-*")
	if err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	defer os.Remove(f.Name())
	err = pack(f, files)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	fmt.Fprintf(a.Out, "Everything that is kept of version %d of service %s is in %s. Values of environment variables are masked.\n", version, service, path)
	return nil
}

// bundled gathers the files of a bundle by name.
func (a *App) bundled(ctx context.Context, c *client, service string, version int) (map[string][]byte, error) {
	var record json.RawMessage
	if err := c.call(ctx, "GetDeploymentRecord", map[string]any{"serviceName": service, "version": version}, &record); err != nil {
		return nil, err
	}
	var head struct {
		Diagnosis *trysail.Diagnosis `json:"diagnosis"`
	}
	var pretty bytes.Buffer
	if err := json.Unmarshal(record, &head); err != nil {
		return nil, fmt.Errorf("reading the record: %w", err)
	}
	if err := json.Indent(&pretty, record, "", "  "); err != nil {
		return nil, fmt.Errorf("reading the record: %w", err)
	}
	files := map[string][]byte{"record.json": pretty.Bytes()}
	if d := head.Diagnosis; d != nil {
		var text bytes.Buffer
		printDiagnosis(a.screen(&text), d)
		files["diagnosis.txt"] = text.Bytes()
	}
	out, err := c.GetContainerServiceDeployments(ctx, &lightsail.GetContainerServiceDeploymentsInput{ServiceName: &service})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(out.Deployments, func(d types.ContainerServiceDeployment) bool { return int(aws.ToInt32(d.Version)) == version })
	if i < 0 {
		return nil, fmt.Errorf("service %q does not have version %d any more", service, version)
	}
	d := out.Deployments[i]
	mask := trysail.NewMasker(environmentOf(&d))
	for _, name := range containerNames(&d) {
		text, err := c.newestLog(ctx, service, name, aws.ToTime(d.CreatedAt))
		if err != nil {
			return nil, fmt.Errorf("reading the log of container %s: %w", name, err)
		}
		files["logs/"+name+".log"] = []byte(mask.Text(string(text)))
	}
	files["README.txt"] = fmt.Appendf(nil, `What Trysail keeps of version %d of service %s, written at %s.

record.json    the deployment, its diagnosis, its pods, and all evidence: counters, sockets, probes, trials, last lines
diagnosis.txt  the diagnosis as trysail explain prints it
logs/          the newest lines of each container since the deployment began, of all pods, with Trysail's own

The values of environment variables are masked: $NAME stands where the value of NAME was.
`, version, service, time.Now().UTC().Format(time.RFC3339))
	return files, nil
}

// environmentOf is the deployment as far as its variables go.
func environmentOf(d *types.ContainerServiceDeployment) *trysail.Deployment {
	known := &trysail.Deployment{Containers: map[string]trysail.Container{}}
	for name, c := range d.Containers {
		known.Containers[name] = trysail.Container{Environment: c.Environment}
	}
	return known
}

// newestLog returns the end of a container's log since a time, at most maxBundledLog bytes.
func (c *client) newestLog(ctx context.Context, service, container string, since time.Time) ([]byte, error) {
	var text []byte
	for page, err := range c.logPages(ctx, logQuery{service: service, container: container}, since, time.Time{}) {
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			text = append(text, e.time().Format("2006-01-02T15:04:05.000Z ")...)
			text = append(append(text, e.message...), '\n')
		}
		if extra := len(text) - maxBundledLog; extra > 0 {
			_, rest, _ := bytes.Cut(text[extra:], []byte("\n"))
			text = slices.Clone(rest)
		}
	}
	return text, nil
}

// pack writes a tar.gz archive.
func pack(w io.Writer, files map[string][]byte) error {
	compressed := gzip.NewWriter(w)
	archive := tar.NewWriter(compressed)
	now := time.Now()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(files[name])), ModTime: now, Format: tar.FormatPAX})
		if err == nil {
			_, err = archive.Write(files[name])
		}
		if err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return compressed.Close()
}
