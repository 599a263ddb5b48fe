package store

import (
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ProblemError is why a database cannot be used, in words for its operator.
type ProblemError struct {
	Text string // what is wrong; it holds no secrets
	Fix  string // what to do, a sentence
	err  error
}

func (e *ProblemError) Error() string { return e.Text }

func (e *ProblemError) Unwrap() error { return e.err }

// HasPassword reports whether the URL of a database holds a secret, and so must not be where others can read it.
func HasPassword(databaseURL string) bool {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return strings.Contains(databaseURL, "@") // it may
	}
	_, has := u.User.Password()
	return has || u.Query().Has("password") || u.Query().Has("sslpassword")
}

// ShowURL is the URL of a database without its options and secrets.
func ShowURL(databaseURL string) string {
	u, err := url.Parse(databaseURL)
	if err != nil || u.Host == "" && u.Path == "" {
		return "the database"
	}
	show := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	if name := u.User.Username(); name != "" {
		show.User = url.User(name)
	}
	return show.String()
}

// parsePostgres reads the settings. Its errors never repeat the URL, which may hold a password. Errors: *ProblemError.
func parsePostgres(cfg Postgres) (*pgx.ConnConfig, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, &ProblemError{
			Text: "the address of the database is not a URL such as postgres://trysail@db.example.com:5432/trysail",
			Fix:  "In a user's name or a password, write special characters as %XX.",
		}
	}
	q := u.Query()
	// Environment variables of services are secrets, too. libpq's default would send them in the clear without a word.
	if !q.Has("sslmode") && !q.Has("sslrootcert") && os.Getenv("PGSSLMODE") == "" && !isNear(u, q) {
		q.Set("sslmode", "require")
		u.RawQuery = q.Encode()
	}
	config, err := pgx.ParseConfig(u.String())
	if err != nil {
		text := "the options in the address of the database are not understood"
		if inner, ok := err.(interface{ Unwrap() error }); ok && inner.Unwrap() != nil { // the outermost one repeats the URL
			text += ": " + mask(inner.Unwrap().Error(), u)
		}
		return nil, &ProblemError{Text: text, Fix: "The options are those of libpq: sslmode, sslrootcert, sslcert, sslkey, search_path and so on."}
	}
	if cfg.Password != "" {
		config.Password = cfg.Password
	}
	setDefault(config.RuntimeParams, "application_name", "trysail")
	setDefault(config.RuntimeParams, "idle_in_transaction_session_timeout", strconv.FormatInt(idleTime.Milliseconds(), 10))
	if config.ConnectTimeout == 0 || !q.Has("connect_timeout") {
		config.ConnectTimeout = 10 * time.Second
	}
	if config.ValidateConnect == nil {
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite // of several, the one that takes writes
	}
	config.DialFunc = dialer().DialContext
	return config, nil
}

// dialer makes connections that notice within a quarter of a minute when the other side is gone.
func dialer() *net.Dialer {
	const tcpUserTimeout = 0x12
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 2},
		Control: func(network, _ string, c syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") {
				return nil
			}
			var failed error
			err := c.Control(func(fd uintptr) {
				failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, 15_000)
			})
			if err != nil {
				return err
			}
			return failed
		},
	}
}

func setDefault(params map[string]string, name, value string) {
	if params[name] == "" {
		params[name] = value
	}
}

// isNear reports whether the database is on this machine, where nobody listens on the way.
func isNear(u *url.URL, q url.Values) bool {
	hosts := u.Host
	if h := q.Get("host"); h != "" {
		hosts = h
	}
	if hosts == "" {
		hosts = os.Getenv("PGHOST")
	}
	for host := range strings.SplitSeq(hosts, ",") {
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if host != "" && host != "localhost" && !strings.HasPrefix(host, "/") && (err != nil || !addr.IsLoopback()) {
			return false
		}
	}
	return true
}

// mask takes the secrets of a URL out of a text.
func mask(text string, u *url.URL) string {
	secrets := []string{u.Query().Get("password"), u.Query().Get("sslpassword")}
	if p, ok := u.User.Password(); ok {
		secrets = append(secrets, p, url.QueryEscape(p), url.PathEscape(p))
	}
	for _, s := range secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "xxxxx")
		}
	}
	return text
}
