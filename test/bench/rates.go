package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"

	"github.com/trysail/trysail/test/kit"
)

const mib = 1 << 20

// memory adds up the server and its containerd.
func memory(s *kit.Server) (kit.Memory, error) {
	child, err := s.Containerd()
	if err != nil {
		return kit.Memory{}, err
	}
	a, err := kit.MemoryOf(s.PID())
	if err != nil {
		return kit.Memory{}, err
	}
	b, err := kit.MemoryOf(child.PID)
	return kit.Memory{RSS: a.RSS + b.RSS, PSS: a.PSS + b.PSS}, err
}

func idleMemory(t *table, s *kit.Server) error {
	m, err := memory(s)
	if err != nil {
		return err
	}
	t.add("memory, trysail + containerd, no pods", fmt.Sprintf("RSS %d MB, PSS %d MB", m.RSS/mib, m.PSS/mib), "(aim RSS ≤ 90 MB)")
	return nil
}

// podMemory is what four more pods add, shims included, the app's own memory too.
func podMemory(ctx context.Context, t *table, s *kit.Server, d *deployer) error {
	all := func() (int64, error) {
		procs, err := kit.Processes(func(p kit.Proc) bool {
			return p.PID == s.PID() || strings.Contains(strings.Join(p.Args, " "), s.StateDir()) || p.Args[0] == "containerd" && p.Parent == s.PID()
		})
		var sum int64
		for _, p := range procs {
			m, err := kit.MemoryOf(p.PID)
			if err != nil {
				return 0, err
			}
			sum += m.PSS
		}
		return sum, err
	}
	before, err := all()
	if err != nil {
		return err
	}
	_, err = d.api.UpdateContainerService(ctx, &lightsail.UpdateContainerServiceInput{ServiceName: aws.String(serviceName), Scale: aws.Int32(5)})
	if err != nil {
		return err
	}
	if err := d.wait(ctx, types.ContainerServiceStateRunning); err != nil {
		return err
	}
	after, err := all()
	if err != nil {
		return err
	}
	t.add("memory per further pod, trysail + containerd + shim", fmt.Sprintf("PSS %.1f MB", float64(after-before)/4/mib), "")
	return nil
}

// rates measures the API with more and more services, and what the server does with them when nobody asks.
func rates(ctx context.Context, t *table, o options) (err error) {
	s, err := kit.StartServer(ctx, kit.ServerOptions{Flags: []string{"--max-services", fmt.Sprint(o.services)}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Remove(context.WithoutCancel(ctx))) }()
	api := s.Client()
	made := 0
	for _, n := range []int{1, 100, 1000} {
		n = min(n, o.services)
		for ; made < n; made++ {
			_, err := api.CreateContainerService(ctx, &lightsail.CreateContainerServiceInput{
				ServiceName: aws.String(fmt.Sprintf("rate-%d", made)), Power: types.ContainerServicePowerNameNano, Scale: aws.Int32(1),
			})
			if err != nil {
				return err
			}
		}
		if err := allReady(ctx, api); err != nil {
			return err
		}
		rate, size, err := callRate(ctx, s, o.window)
		if err != nil {
			return err
		}
		t.add(fmt.Sprintf("GetContainerServices, all of %d", n), fmt.Sprintf("%.0f calls/s", rate), fmt.Sprintf("%.1f KB each", float64(size)/1000))
	}
	return idleCPU(ctx, t, s, made, o.window)
}

func allReady(ctx context.Context, api *lightsail.Client) error {
	return kit.Until(ctx, 2*time.Minute, func() error {
		out, err := api.GetContainerServices(ctx, &lightsail.GetContainerServicesInput{})
		if err != nil {
			return err
		}
		for _, s := range out.ContainerServices {
			if s.State != types.ContainerServiceStateReady {
				return fmt.Errorf("service %s is %s", aws.ToString(s.ContainerServiceName), s.State)
			}
		}
		return nil
	})
}

// callRate sends the same signed request again and again on two connections per CPU: to sign costs the client more
// than the answer costs the server, and both share this machine.
func callRate(ctx context.Context, s *kit.Server, window time.Duration) (perSecond float64, size int64, err error) {
	const body = "{}"
	sum := sha256.Sum256([]byte(body))
	signed, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.API+"/", nil)
	if err != nil {
		return 0, 0, err
	}
	signed.Header.Set("Content-Type", "application/x-amz-json-1.1")
	signed.Header.Set("X-Amz-Target", "Lightsail_20161128.GetContainerServices")
	err = v4.NewSigner().SignHTTP(ctx, aws.Credentials{AccessKeyID: s.Vars["AWS_ACCESS_KEY_ID"], SecretAccessKey: s.Vars["AWS_SECRET_ACCESS_KEY"]},
		signed, hex.EncodeToString(sum[:]), "lightsail", s.Vars["AWS_REGION"], time.Now())
	if err != nil {
		return 0, 0, err
	}
	workers := 2 * runtime.NumCPU()
	h := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	defer h.CloseIdleConnections()
	var calls, bytes atomic.Int64
	var failure atomic.Pointer[error]
	began := time.Now()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for time.Since(began) < window && ctx.Err() == nil {
				req := signed.Clone(ctx)
				req.Body, req.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
				n, err := once(h, req)
				if err != nil {
					failure.Store(&err)
					return
				}
				calls.Add(1)
				bytes.Add(n)
			}
		})
	}
	wg.Wait()
	if f := failure.Load(); f != nil {
		return 0, 0, *f
	}
	if calls.Load() == 0 {
		return 0, 0, context.Cause(ctx)
	}
	return float64(calls.Load()) / time.Since(began).Seconds(), bytes.Load() / calls.Load(), nil
}

func once(h *http.Client, req *http.Request) (int64, error) {
	resp, err := h.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return n, err
}

func idleCPU(ctx context.Context, t *table, s *kit.Server, services int, window time.Duration) error {
	child, err := s.Containerd()
	if err != nil {
		return err
	}
	sum := func() (time.Duration, error) {
		a, err := kit.CPUOf(s.PID())
		if err != nil {
			return 0, err
		}
		b, err := kit.CPUOf(child.PID)
		return a + b, err
	}
	select { // what the calls before have left to do is no idling
	case <-time.After(window):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	before, err := sum()
	if err != nil {
		return err
	}
	began := time.Now()
	select {
	case <-time.After(4 * window):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	after, err := sum()
	if err != nil {
		return err
	}
	t.add(fmt.Sprintf("CPU with %d services and no pods", services),
		fmt.Sprintf("%.2f %% of a core", 100*(after-before).Seconds()/time.Since(began).Seconds()), "(aim < 1 %)")
	return nil
}
