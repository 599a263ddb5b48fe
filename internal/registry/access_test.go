package registry_test

import (
	"crypto/sha256"
	"errors"
	"net/http/httptest"
	"testing"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/registry"
	"github.com/trysail/trysail/internal/store"
)

func TestLogin_MayDoWhatTheRoleOfItsKeySays(t *testing.T) {
	b := newBench(t, registry.Config{})
	for _, k := range []store.AccessKey{
		{ID: "CI", Role: trysail.RoleDeploy, Services: []string{"web"}},
		{ID: "EYES", Role: trysail.RoleRead},
		{ID: "SOME", Role: trysail.RoleAdmin, Services: []string{"web"}},
	} {
		hash := sha256.Sum256([]byte("password of " + k.ID))
		err := b.store.Update(t.Context(), func(tx *store.Tx) error {
			k.CreatedAt = tx.Now()
			return errors.Join(tx.InsertKey(k), tx.InsertLogin(hash[:], k.ID, tx.Now().AddDate(1, 0, 0)))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	digest := "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	for _, tt := range []struct {
		key, method, path string
		denied            bool
	}{
		{"CI", "POST", "sr/blobs/uploads/", false},
		{"CI", "HEAD", "sr/blobs/" + digest, false},
		{"CI", "DELETE", "sr/blobs/uploads/nothing", false},
		{"CI", "GET", "", false},
		{"CI", "GET", "sr/tags/list", true},
		{"CI", "GET", "_catalog", true},
		{"CI", "GET", "sr/referrers/" + digest, true},
		{"CI", "DELETE", "sr/blobs/" + digest, true},
		{"CI", "DELETE", "sr/manifests/" + digest, true},
		{"SOME", "DELETE", "sr/manifests/" + digest, true},
		{"EYES", "GET", "sr/manifests/latest", true},
		{"EYES", "POST", "sr/blobs/uploads/", true},
	} {
		req := httptest.NewRequest(tt.method, "/v2/"+tt.path, nil)
		req.SetBasicAuth(registry.Username, "password of "+tt.key)
		w := httptest.NewRecorder()
		b.Handler().ServeHTTP(w, req)
		if (w.Code == 403) != tt.denied || w.Code == 401 {
			t.Errorf("%s: %s %s: got %d, want denied: %v", tt.key, tt.method, tt.path, w.Code, tt.denied)
		}
	}
}
