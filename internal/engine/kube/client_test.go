package kube

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestClient_WaitsForTurns: the API server sends away what does not fit into its queues, and says to come back in up to half a
// minute. A burst of ours stays with us, and only as long as there is no room, and does not keep other things waiting.
func TestClient_WaitsForTurns(t *testing.T) {
	var mu sync.Mutex
	atOnce, most := 0, 0
	arrived, gate := make(chan struct{}, 10*maxAtOnce), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.Contains(r.URL.Path, "/pods/") {
			mu.Lock()
			atOnce++
			most = max(most, atOnce)
			mu.Unlock()
			arrived <- struct{}{}
			<-gate
			mu.Lock()
			atOnce--
			mu.Unlock()
			_, _ = w.Write([]byte(`{"kind":"Pod","apiVersion":"v1"}`))
			return
		}
		_, _ = w.Write([]byte(`{"kind":"Service","apiVersion":"v1"}`))
	}))
	defer server.Close()
	api := newTestClient(t, server.URL)
	var g errgroup.Group
	for range 4 * maxAtOnce {
		g.Go(func() error {
			return api.apply(t.Context(), api.core, "pods", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}})
		})
	}
	for range maxAtOnce {
		<-arrived
	}
	if err := api.apply(t.Context(), api.core, "services", &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}}); err != nil {
		t.Errorf("a service behind many pods: %v", err)
	}
	close(gate)
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if most != maxAtOnce {
		t.Errorf("there were up to %d requests at once, want %d", most, maxAtOnce)
	}
}

func newTestClient(t *testing.T, url string) *client {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"" + url + "\"}}]\ncontexts: [{name: x, context: {cluster: c}}]\ncurrent-context: x\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	api, err := newClient(Config{Kubeconfig: file, Namespace: "ns"})
	if err != nil {
		t.Fatal(err)
	}
	return api
}
