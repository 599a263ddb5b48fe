package enginetest_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/engine"
	"github.com/trysail/trysail/internal/engine/enginetest"
)

const digest = "@sha256:0000000000000000000000000000000000000000000000000000000000000000"

func TestMemory_Conforms(t *testing.T) {
	conforms(t)
}

func TestMemory_ConformsWithManyNodes(t *testing.T) {
	conforms(t, "a", "z")
}

// conforms runs the suite on an engine that has these nodes besides the first.
func conforms(t *testing.T, nodes ...string) {
	enginetest.Run(t, func(t *testing.T) enginetest.Fixture {
		m := enginetest.NewMemory()
		for _, n := range nodes {
			m.AddNode(n)
		}
		t.Cleanup(func() { _ = m.Close() })
		m.SetImage("program", enginetest.Image{
			Entrypoint: []string{"/program", "--entry"}, Command: []string{"wait"}, Program: enginetest.TestProgram,
		})
		m.SetImage("missing", enginetest.Image{PrepareErr: &trysail.ImageError{
			Code: "IMG-REPO", Image: "missing", Message: "There is no such image.", Fix: "Push it.", Final: true,
		}})
		m.SetImage("broken", enginetest.Image{StartError: `exec: "/nope": no such file or directory`})
		return enginetest.Fixture{
			Engine: m, Image: "program" + digest, Missing: "missing" + digest, Broken: "broken" + digest,
			Reopen: func(*testing.T) engine.Engine { return m },
		}
	})
}

func pod(id trysail.PodID, image string) trysail.PodSpec {
	return trysail.PodSpec{
		ID: id, Limits: trysail.Limits{MilliCPU: 250, Memory: 1 << 20},
		Containers: []trysail.ContainerSpec{{Name: "app", Image: image}},
	}
}

func TestMemory_RunsOnFakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := enginetest.NewMemory()
		defer m.Close()
		m.SetImage("crash", enginetest.Image{
			PrepareTime: time.Minute, StartTime: time.Second, Program: enginetest.ExitAfter(time.Hour, 9),
		})
		began := time.Now()
		if err := m.Prepare(t.Context(), "crash"); err != nil {
			t.Fatal(err)
		}
		if err := m.Start(t.Context(), pod("p", "crash")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != time.Minute+time.Second {
			t.Errorf("Prepare and Start took %v", took)
		}
		time.Sleep(time.Hour - 1)
		synctest.Wait()
		if p := one(t, m); !p.Running(1) {
			t.Errorf("before its hour: %+v", p)
		}
		time.Sleep(1 * time.Nanosecond)
		synctest.Wait()
		if c := one(t, m).Containers[0]; c.State != trysail.ContainerExited || c.ExitCode != 9 {
			t.Errorf("after its hour: %+v", c)
		}
	})
}

func one(t *testing.T, m *enginetest.Memory) trysail.Pod {
	t.Helper()
	pods, err := m.Pods(t.Context())
	if err != nil || len(pods) != 1 {
		t.Fatalf("Pods() = %+v, %v", pods, err)
	}
	return pods[0]
}

func TestMemory_FailsAsTold(t *testing.T) {
	m := enginetest.NewMemory()
	defer m.Close()
	broken := errors.New("no room")
	m.FailStart(1, broken)
	if err := m.Start(t.Context(), pod("p", "x")); !errors.Is(err, broken) {
		t.Errorf("first Start: %v", err)
	}
	if err := m.Start(t.Context(), pod("p", "x")); err != nil {
		t.Errorf("second Start: %v", err)
	}
	if !m.Crash("p", "app", 3) || m.Crash("p", "app", 3) || m.Crash("p", "other", 3) {
		t.Error("Crash does not know what runs")
	}
	if c := one(t, m).Containers[0]; c.ExitCode != 3 {
		t.Errorf("after Crash: %+v", c)
	}
	if !m.Lose("p") || m.Lose("q") {
		t.Error("Lose does not know what is there")
	}
	if !one(t, m).Lost {
		t.Error("the pod is not lost")
	}
	m.SetCheck(broken)
	m.FailPods(broken)
	if _, err := m.Pods(t.Context()); !errors.Is(err, broken) || !errors.Is(m.Check(t.Context()), broken) {
		t.Error("Pods and Check do not fail")
	}
	if got := m.Calls(); len(got) != 2 || got[1].String() != "Start(p)" {
		t.Errorf("calls %v", got)
	}
}

func TestMemory_PodsListenOnTheirOwnAddress(t *testing.T) {
	m := enginetest.NewMemory()
	defer m.Close()
	m.SetImage("web", enginetest.Image{Program: enginetest.Serve(8080, nil)})
	for _, id := range []trysail.PodID{"one", "two"} {
		if err := m.Start(t.Context(), pod(id, "web")); err != nil {
			t.Fatal(err)
		}
	}
	pods, err := m.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Addr.String()+":8080/", nil)
		if err != nil {
			t.Fatal(err)
		}
		for {
			resp, err := http.DefaultClient.Do(req)
			if err == nil {
				resp.Body.Close()
				break
			}
			if ctx.Err() != nil {
				t.Fatal(err)
			}
		}
		cancel()
	}
}
