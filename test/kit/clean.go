package kit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
)

func trusting(ca string) (*tls.Config, error) {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("reading the local CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading the local CA: no certificate in %s", ca)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// Client returns the official SDK's client for this server. It does not retry: a test wants to see the first answer.
func (s *Server) Client() *lightsail.Client {
	return lightsail.New(lightsail.Options{
		Region:       s.Vars["AWS_REGION"],
		BaseEndpoint: aws.String("http://" + s.API),
		Retryer:      aws.NopRetryer{},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: s.Vars["AWS_ACCESS_KEY_ID"], SecretAccessKey: s.Vars["AWS_SECRET_ACCESS_KEY"]}, nil
		}),
	})
}

// DeleteServices deletes every service and waits until all are gone. A service that is busy is asked again.
func (s *Server) DeleteServices(ctx context.Context) error {
	client := s.Client()
	return Until(ctx, 2*time.Minute, func() error {
		out, err := client.GetContainerServices(ctx, &lightsail.GetContainerServicesInput{})
		if err != nil {
			return fmt.Errorf("listing services: %w", err)
		}
		var names []string
		for _, svc := range out.ContainerServices {
			name := aws.ToString(svc.ContainerServiceName)
			names = append(names, name+" "+string(svc.State))
			if svc.State == types.ContainerServiceStateDeleting {
				continue
			}
			_, err := client.DeleteContainerService(ctx, &lightsail.DeleteContainerServiceInput{ServiceName: svc.ContainerServiceName})
			if err != nil {
				names = append(names, err.Error())
			}
		}
		if len(names) > 0 {
			return fmt.Errorf("there still are services: %s", strings.Join(names, ", "))
		}
		return nil
	})
}

// Remove ends everything that belongs to the server: it deletes the services through the API if the server still
// answers, stops it, ends by force what is left, and removes the data directory with its parent.
// It reports what had to be ended by force: a server that works leaves nothing behind.
func (s *Server) Remove(ctx context.Context) error {
	var errs []error
	if s.proc != nil && !s.proc.ended() && s.Vars != nil {
		errs = append(errs, s.DeleteServices(ctx))
	}
	errs = append(errs, s.Stop())
	left, err := s.Leftovers()
	errs = append(errs, err)
	if len(left) > 0 {
		errs = append(errs, fmt.Errorf("trysail left behind:\n\t%s", strings.Join(left, "\n\t")))
	}
	errs = append(errs, s.sweep(), s.forgetNetwork(ctx), s.leaveCluster())
	if state := s.StateDir(); state != "" {
		errs = append(errs, os.RemoveAll(state))
		_ = os.Remove(filepath.Dir(state)) // it stays when another server uses it
	}
	if s.DataDir != "" && filepath.Base(s.DataDir) == "d" {
		errs = append(errs, os.RemoveAll(filepath.Dir(s.DataDir)))
	} else {
		errs = append(errs, os.RemoveAll(s.DataDir))
	}
	return errors.Join(errs...)
}

// dirs are the folders that are the server's alone: its data, and what its containerd keeps outside of it.
func (s *Server) dirs() []string {
	dirs := []string{s.DataDir}
	if state := s.StateDir(); state != "" {
		dirs = append(dirs, state)
	}
	return dirs
}

var (
	stateLine  = regexp.MustCompile(`(?m)^state = "(.+)/[^/"]+"$`)
	bridgeName = regexp.MustCompile(`"bridge": "([^"]+)"`)
)

// StateDir is where the server keeps what must vanish with a reboot, as its containerd has been told; empty if it has
// never come that far.
func (s *Server) StateDir() string { return s.find("containerd.toml", stateLine) }

// bridge is the network bridge of the server's pods; empty if there is none.
func (s *Server) bridge() string { return s.find("10-trysail.conflist", bridgeName) }

// find searches the file of that name, wherever it is in the data directory, for a pattern with one group.
func (s *Server) find(file string, re *regexp.Regexp) string {
	for _, pattern := range []string{"*/", "*/*/"} {
		paths, err := filepath.Glob(filepath.Join(s.DataDir, pattern, file))
		if err != nil || len(paths) == 0 {
			continue
		}
		data, err := os.ReadFile(paths[0])
		if err != nil {
			continue
		}
		if m := re.FindSubmatch(data); m != nil {
			return string(m[1])
		}
	}
	return ""
}

// Leftovers lists processes and mounts that name the server's folders. The server itself must have ended.
func (s *Server) Leftovers() ([]string, error) {
	var left []string
	procs, err := Processes(s.ours)
	if err != nil {
		return nil, err
	}
	for _, p := range procs {
		left = append(left, "process "+p.String())
	}
	for _, dir := range s.dirs() {
		mounts, err := Mounts(dir)
		if err != nil {
			return nil, err
		}
		for _, m := range mounts {
			left = append(left, "mount "+m)
		}
	}
	return left, nil
}

// ours reports whether the command line of p names one of the server's folders.
func (s *Server) ours(p Proc) bool {
	return p.PID != os.Getpid() && slices.ContainsFunc(p.Args, func(arg string) bool {
		return slices.ContainsFunc(s.dirs(), func(dir string) bool { return strings.Contains(arg, dir+"/") || arg == dir })
	})
}

// sweep kills the processes and undoes the mounts that Leftovers lists.
func (s *Server) sweep() error {
	var errs []error
	procs, err := Processes(s.ours)
	errs = append(errs, err)
	for _, p := range procs {
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("killing %s: %w", p, err))
		}
	}
	for _, dir := range s.dirs() {
		mounts, err := Mounts(dir)
		errs = append(errs, err)
		slices.Reverse(mounts) // the innermost first
		for _, m := range mounts {
			if err := syscall.Unmount(m, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
				errs = append(errs, fmt.Errorf("unmounting %s: %w", m, err))
			}
		}
	}
	return errors.Join(errs...)
}
