package kit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Rsyslog is a syslog server that receives over TCP or TLS and writes what it understood into a file, one message per
// line: the fields of the header, the structured data and the text, with tabs between them.
type Rsyslog struct {
	Addr string
	dir  string
	proc *process
}

// RsyslogOptions says how to run one.
type RsyslogOptions struct {
	Dir       string // for its files; required
	Addr      string // default: a free loopback port
	Cert, Key string // files; with them it speaks TLS
}

// StartRsyslog runs the server that Debian ships, out of the cache, and waits until it listens.
func StartRsyslog(ctx context.Context, o RsyslogOptions) (*Rsyslog, error) {
	cache, err := Cache()
	if err != nil {
		return nil, err
	}
	root := filepath.Join(cache, "rsyslog")
	programs, err := filepath.Glob(filepath.Join(root, "usr/lib/*/rsyslog"))
	if err != nil || len(programs) != 1 {
		return nil, errors.New("finding rsyslog (run scripts/setup.sh test): it is not in the cache")
	}
	r := &Rsyslog{Addr: o.Addr, dir: o.Dir}
	if r.Addr == "" {
		if r.Addr, err = FreeAddr(); err != nil {
			return nil, err
		}
	}
	config := filepath.Join(o.Dir, "rsyslog.conf")
	if err := os.WriteFile(config, []byte(r.config(o)), 0o600); err != nil {
		return nil, err
	}
	// Its libraries are in the cache too, if the machine lacks them.
	libs := filepath.Dir(programs[0])
	cmd := exec.Command(filepath.Join(root, "usr/sbin/rsyslogd"), "-n", "-f", config, "-i", filepath.Join(o.Dir, "pid"), "-M", programs[0])
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libs+":"+filepath.Join(root, "lib", filepath.Base(libs)))
	out, err := os.OpenFile(filepath.Join(o.Dir, "rsyslogd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	diesWithUs(cmd)
	if r.proc, err = startProcess(cmd); err != nil {
		return nil, fmt.Errorf("starting rsyslogd: %w", err)
	}
	err = Until(ctx, 30*time.Second, func() error {
		if r.proc.ended() {
			return fmt.Errorf("rsyslogd ended: %w", r.proc.err)
		}
		conn, err := net.Dial("tcp", r.Addr)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	if err != nil {
		text, _ := os.ReadFile(out.Name())
		return nil, fmt.Errorf("waiting for rsyslogd: %w\n%s", err, text)
	}
	return r, nil
}

func (r *Rsyslog) config(o RsyslogOptions) string {
	_, port, _ := net.SplitHostPort(r.Addr)
	var b strings.Builder
	fmt.Fprintf(&b, "global(workDirectory=%q maxMessageSize=\"64k\" parser.escapeControlCharactersOnReceive=\"off\"", o.Dir)
	driver := ""
	if o.Cert != "" {
		fmt.Fprintf(&b, " defaultNetstreamDriver=\"ossl\" defaultNetstreamDriverCAFile=%q defaultNetstreamDriverCertFile=%q defaultNetstreamDriverKeyFile=%q", o.Cert, o.Cert, o.Key)
		driver = ` StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="anon"`
	}
	fmt.Fprintf(&b, ")\nmodule(load=\"imtcp\"%s)\ninput(type=\"imtcp\" address=\"127.0.0.1\" port=%q)\n", driver, port)
	b.WriteString(`template(name="fields" type="string" string="%HOSTNAME%\t%APP-NAME%\t%PROCID%\t%MSGID%\t%STRUCTURED-DATA%\t%msg%\n")` + "\n")
	// It writes before it takes the next message, so that a killed server has lost nothing that it has read.
	fmt.Fprintf(&b, "action(type=\"omfile\" file=%q template=\"fields\" asyncWriting=\"off\" flushOnTXEnd=\"on\")\n", r.file())
	return b.String()
}

func (r *Rsyslog) file() string { return filepath.Join(r.dir, "messages") }

// Lines returns what it has written.
func (r *Rsyslog) Lines() ([]string, error) {
	text, err := os.ReadFile(r.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"), err
}

// Stop ends it in good order: it writes what it has read.
func (r *Rsyslog) Stop() error {
	if err := syscall.Kill(r.proc.pid, syscall.SIGTERM); err != nil {
		return err
	}
	<-r.proc.done
	return nil
}

// Dir is where its files are.
func (r *Rsyslog) Dir() string { return r.dir }
