package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// server is what serve was told:
//
//	addr=ADDRESS       to listen on (:8080)
//	status=PATH:CODE   what a path answers; all others answer 200
//	default=CODE       what all other paths answer
//	location=URL       of redirects
//	body=TEXT          of every answer
//	wait=D             before every answer
//	good=D             answer so for this long after the start, and 503 afterwards
//	close=D            stop listening after this long
//	host=NAME          answer 400 to every other host, as Django does
//	login              answer 401 to everybody
//	slowbody           send the body in pieces, one every 50 ms
//	http10             answer in HTTP/1.0 and close
//	hangup             close connections without an answer
//	raw=TEXT           say TEXT to everybody who connects, which is not HTTP
//	continue           read the body of every request, and so answer Expect: 100-continue
//	grpc               say what HTTP/2 servers say first, and close
//	tls                speak TLS with a certificate that nobody has signed
//	h2c                speak HTTP/2 without TLS, and nothing else
type server struct {
	addr, body, location, host, raw                                 string
	status                                                          map[string]int
	other                                                           int
	wait, good, close                                               time.Duration
	login, slow, http10, hangup, secure, h2c, grpc, noKeep, reading bool
	started                                                         time.Time
}

func parseServer(options []string) (*server, error) {
	s := &server{addr: ":8080", body: "misbehave is well\n", other: http.StatusOK, status: map[string]int{}, started: time.Now()}
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		var err error
		switch name {
		case "addr":
			s.addr = value
		case "status":
			path, code, _ := strings.Cut(value, ":")
			s.status[path], err = strconv.Atoi(code)
		case "default":
			s.other, err = strconv.Atoi(value)
		case "location":
			s.location = value
		case "body":
			s.body = value
		case "wait":
			s.wait, err = time.ParseDuration(value)
		case "good":
			s.good, err = time.ParseDuration(value)
		case "close":
			s.close, err = time.ParseDuration(value)
		case "host":
			s.host = value
		case "raw":
			s.raw = value
		case "login":
			s.login = true
		case "slowbody":
			s.slow = true
		case "http10":
			s.http10 = true
		case "hangup":
			s.hangup = true
		case "tls":
			s.secure = true
		case "h2c":
			s.h2c = true
		case "grpc":
			s.grpc = true
		case "nokeepalive":
			s.noKeep = true
		case "continue":
			s.reading = true
		default:
			err = fmt.Errorf("serve has no option %q", o)
		}
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

func serve(options []string) error {
	s, err := parseServer(options)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", s.addr)
	if err != nil {
		return err
	}
	fmt.Println("listening on", ln.Addr())
	if s.close > 0 {
		time.AfterFunc(s.close, func() { ln.Close() })
	}
	if s.raw != "" || s.hangup || s.http10 || s.grpc {
		go s.bare(ln)
		return nil
	}
	srv := &http.Server{Handler: s, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.NewTextHandler(os.Stderr, nil), slog.LevelError)}
	srv.SetKeepAlivesEnabled(!s.noKeep)
	if s.h2c {
		srv.Protocols = new(http.Protocols)
		srv.Protocols.SetUnencryptedHTTP2(true)
	}
	if s.secure {
		cert, err := selfSigned()
		if err != nil {
			return err
		}
		srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
		go func() { _ = srv.ServeTLS(ln, "", "") }()
		return nil
	}
	go func() { _ = srv.Serve(ln) }()
	return nil
}

// bare speaks on the connections themselves.
func (s *server) bare(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if s.grpc {
				_, _ = conn.Write([]byte("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64")) // SETTINGS
			}
			if s.raw != "" {
				fmt.Fprintf(conn, "%s\r\n", s.raw)
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil || s.raw != "" || s.hangup || s.grpc {
				return
			}
			fmt.Fprintf(conn, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n%s", s.body)
		}()
	}
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.reading {
		if _, err := r.Body.Read(make([]byte, 1)); err == nil {
			fmt.Println("got a body")
		}
	}
	time.Sleep(s.wait)
	code, named := s.status[r.URL.Path]
	if !named {
		code = s.other
	}
	switch {
	case s.host != "" && r.Host != s.host && !strings.HasPrefix(r.Host, s.host+":"):
		http.Error(w, "DisallowedHost at "+r.URL.Path+"\nInvalid HTTP_HOST header: '"+r.Host+"'. You may need to add it to ALLOWED_HOSTS.", http.StatusBadRequest)
		return
	case s.good > 0 && time.Since(s.started) > s.good:
		http.Error(w, "the cache is broken", http.StatusServiceUnavailable)
		return
	case s.login && !named:
		w.Header().Set("WWW-Authenticate", `Basic realm="misbehave"`)
		code = http.StatusUnauthorized
	case code >= 300 && code < 400:
		w.Header().Set("Location", s.location)
	}
	w.WriteHeader(code)
	if code == http.StatusNoContent || code == http.StatusNotModified {
		return
	}
	if !s.slow {
		fmt.Fprint(w, s.body)
		return
	}
	for _, piece := range strings.SplitAfter(s.body, " ") {
		fmt.Fprint(w, piece)
		_ = http.NewResponseController(w).Flush()
		time.Sleep(50 * time.Millisecond)
	}
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "misbehave"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
