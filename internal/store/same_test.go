package store_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/store"
)

// exact compares what came out of two databases.
var exact = gocmp.Options{cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{}), cmpopts.SortSlices(func(a, b store.ManifestReference) bool {
	return cmp.Or(cmp.Compare(a.Manifest, b.Manifest), cmp.Compare(a.Digest, b.Digest)) < 0
})}

// world is everything that a store has, as its users see it.
type world struct {
	Services     []trysail.Service
	Deployments  map[string][]trysail.Deployment
	Pods         map[string][]trysail.PodRecord
	Tasks        map[string][]trysail.Task
	Evidence     map[string]trysail.DeploymentEvidence
	Images       []trysail.RegisteredImage
	Uses         []trysail.ImageUse
	Keys         []store.AccessKey
	Audit        []trysail.AuditEvent
	Operations   []trysail.Operation
	Certificates []trysail.Certificate
	Domains      []trysail.DomainCertificate
	Registries   []trysail.Registry
	Manifests    []store.Manifest
	References   []store.ManifestReference
	Tags         []string
	Failed       []store.FailedPod
}

func everything(t rapid.TB, s *store.Store) world {
	t.Helper()
	w := world{Deployments: map[string][]trysail.Deployment{}, Pods: map[string][]trysail.PodRecord{}, Tasks: map[string][]trysail.Task{}, Evidence: map[string]trysail.DeploymentEvidence{}}
	err := s.View(context.Background(), func(tx *store.Tx) (err error) {
		var errs []error
		keep := func(err error) { errs = append(errs, err) }
		w.Services, err = tx.Services()
		keep(err)
		for _, svc := range w.Services {
			w.Deployments[svc.ID], err = tx.Deployments(svc.ID)
			keep(err)
			w.Pods[svc.ID], err = tx.Pods(svc.ID, true)
			keep(err)
			w.Tasks[svc.ID], err = tx.Tasks(svc.ID, true)
			keep(err)
			for _, d := range w.Deployments[svc.ID] {
				e, err := tx.DeploymentEvidence(svc.ID, d.Version)
				keep(err)
				w.Evidence[fmt.Sprint(svc.ID, d.Version)] = *e
			}
		}
		w.Images, err = tx.AllImages()
		keep(err)
		w.Uses, err = tx.ImageUses()
		keep(err)
		w.Keys, err = tx.Keys()
		keep(err)
		w.Audit, _, err = tx.AuditTrail(store.AuditQuery{Limit: 1000})
		keep(err)
		w.Operations, _, err = tx.Operations("", 0, 1000)
		keep(err)
		w.Certificates, err = tx.Certificates()
		keep(err)
		w.Domains, err = tx.Domains()
		keep(err)
		w.Registries, err = tx.Registries()
		keep(err)
		list, err := tx.Manifests()
		keep(err)
		slices.SortFunc(list, func(a, b store.Manifest) int { return cmp.Compare(a.Digest, b.Digest) })
		for _, m := range list {
			full, err := tx.Manifest(m.Digest)
			keep(err)
			w.Manifests = append(w.Manifests, full)
		}
		w.References, err = tx.ManifestReferences()
		keep(err)
		w.Tags, err = tx.ManifestTags("", 1000)
		keep(err)
		w.Failed, err = tx.FailedPods()
		keep(err)
		slices.SortFunc(w.Failed, func(a, b store.FailedPod) int { return cmp.Compare(a.ID, b.ID) })
		return errors.Join(errs...)
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// outcome is the kind of an error that both databases must agree on.
func outcome(err error) string {
	_, taken := errors.AsType[*store.DomainTakenError](err)
	switch {
	case err == nil:
		return "done"
	case errors.Is(err, store.ErrNotFound):
		return "not found"
	case taken:
		return "taken"
	case strings.Contains(err.Error(), "inserting"), strings.Contains(strings.ToLower(err.Error()), "unique"):
		return "refused"
	}
	return err.Error()
}

// TestStores_AreTheSame does the same things, whatever they are, to a store on SQLite and one on PostgreSQL.
func TestStores_AreTheSame(t *testing.T) {
	dir, databaseURL := t.TempDir(), databases.make(t)
	lite, server := open(t, dir), openPostgres(t, store.Postgres{URL: databaseURL, Dir: dir})
	clean := strings.Fields(databases.sql(t, databaseURL, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_name NOT LIKE 'trysail%' ORDER BY 1"))
	rapid.Check(t, func(t *rapid.T) {
		for _, s := range []*store.Store{lite, server} {
			for _, table := range clean {
				if err := s.ExecForTest(t.Context(), "DELETE FROM "+table); err != nil {
					t.Fatal(err)
				}
			}
		}
		name := rapid.SampledFrom([]string{"a", "b", "B", "ä", "a-b"})
		text := rapid.OneOf(rapid.StringMatching(`[a-zA-Z0-9 _%'"\\$?;:ü日😀-]{0,12}`), rapid.Just(""))
		number := rapid.IntRange(0, 4)
		at := rapid.Custom(func(t *rapid.T) time.Time {
			return time.Unix(0, rapid.Int64Range(1, 1<<62).Draw(t, "time")).UTC()
		})
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			do := draw(t, name, text, number, at)
			a, b := outcome(lite.Update(t.Context(), do)), outcome(server.Update(t.Context(), do))
			if a != b {
				t.Fatalf("SQLite: %s, PostgreSQL: %s", a, b)
			}
		}
		same := append(exact, cmpopts.IgnoreFields(store.Manifest{}, "PushedAt"), cmpopts.IgnoreFields(trysail.AuditEvent{}, "At"),
			cmpopts.IgnoreFields(trysail.RegisteredImage{}, "CreatedAt"), cmpopts.IgnoreFields(trysail.Operation{}, "ChangedAt"), cmpopts.IgnoreFields(trysail.Registry{}, "UpdatedAt"))
		if d := gocmp.Diff(everything(t, lite), everything(t, server), same); d != "" {
			t.Fatalf("(-SQLite +PostgreSQL):\n%s", d)
		}
	})
}

// draw makes up something to do. It may be done twice, and does the same each time.
func draw(t *rapid.T, name, text *rapid.Generator[string], number *rapid.Generator[int], at *rapid.Generator[time.Time]) func(*store.Tx) error {
	n, word, i, when := name.Draw(t, "name"), text.Draw(t, "text"), number.Draw(t, "number"), at.Draw(t, "at")
	id, other := "id-"+n, name.Draw(t, "other")
	tags := []trysail.Tag{{Key: "k" + word, Value: word}}
	flag := rapid.Bool().Draw(t, "flag")
	state := rapid.SampledFrom([]trysail.DeploymentState{trysail.DeploymentActivating, trysail.DeploymentActive, trysail.DeploymentInactive, trysail.DeploymentFailed}).Draw(t, "state")
	digest := fmt.Sprint("sha256:", n, i)
	pod := func() *trysail.PodRecord {
		p := &trysail.PodRecord{ID: trysail.PodID(n + fmt.Sprint(i)), ServiceID: id, Version: i, Power: trysail.PowerNano, Slot: i, CreatedAt: when, Reason: word, Failed: flag}
		if flag {
			p.EndedAt, p.StopAt, p.Evidence = when, when, &trysail.PodEvidence{StartError: word + "\x00"}
		}
		return p
	}
	service := func(tx *store.Tx, fn func(*trysail.Service) error) error {
		svc, err := tx.Service(n)
		if err != nil {
			return err
		}
		return fn(svc)
	}
	list := map[string]func(*store.Tx) error{
		"insert service": func(tx *store.Tx) error {
			svc := newService(n)
			svc.CreatedAt, svc.Detail.Message, svc.Disabled, svc.Tags = when, word, flag, tags
			return tx.InsertService(svc)
		},
		"update service": func(tx *store.Tx) error {
			return service(tx, func(svc *trysail.Service) error {
				svc.Disabled, svc.Detail.Message, svc.Settings.AccessLog = flag, word, flag
				if flag {
					svc.Fallback = &trysail.Capacity{Power: trysail.PowerMicro, Scale: i + 1}
				}
				return tx.UpdateService(svc)
			})
		},
		"delete service": func(tx *store.Tx) error { return tx.DeleteService(id) },
		"tags": func(tx *store.Tx) error {
			return service(tx, func(svc *trysail.Service) error { return tx.SetTags(svc.ID, tags) })
		},
		"domains": func(tx *store.Tx) error {
			return service(tx, func(svc *trysail.Service) error {
				return tx.SetPublicDomains(svc.ID, map[string][]string{"c" + n: {other + ".example.com"}})
			})
		},
		"insert deployment": func(tx *store.Tx) error {
			d := newDeployment()
			d.State, d.CreatedAt, d.Deadline, d.Hold = state, when, when, time.Duration(i)
			return tx.InsertDeployment(id, d)
		},
		"update deployment": func(tx *store.Tx) error {
			return tx.UpdateDeployment(id, &trysail.Deployment{Version: i, State: state, Deadline: when, Hold: time.Duration(i)})
		},
		"diagnosis": func(tx *store.Tx) error {
			return errors.Join(tx.SetDiagnosis(id, &trysail.Diagnosis{Version: i, Summary: word}),
				tx.SetDeploymentEvidence(id, i, &trysail.DeploymentEvidence{CanceledBy: word, CanceledAt: when}))
		},
		"insert pod": func(tx *store.Tx) error {
			return service(tx, func(*trysail.Service) error { return tx.InsertPod(pod()) })
		},
		"insert task": func(tx *store.Tx) error {
			return service(tx, func(*trysail.Service) error {
				return tx.InsertTask(&trysail.Task{ID: trysail.PodID(n + fmt.Sprint(i)), ServiceID: id, Version: i, Container: word, Command: []string{word}, CreatedAt: when, Deadline: when})
			})
		},
		"end task": func(tx *store.Tx) error {
			return tx.UpdateTask(&trysail.Task{ID: trysail.PodID(n + fmt.Sprint(i)), ServiceID: id, StopAt: when, EndedAt: when, ExitCode: i, Reason: word})
		},
		"update pod": func(tx *store.Tx) error { return tx.UpdatePod(pod()) },
		"operation": func(tx *store.Tx) error {
			return tx.InsertOperation(trysail.Operation{ID: n + fmt.Sprint(i) + word, ResourceName: n, Type: "T", Details: word, Status: trysail.OperationStarted, CreatedAt: when})
		},
		"finish": func(tx *store.Tx) error { return tx.FinishOperations(n, trysail.OperationFailed, "C", word) },
		"audit": func(tx *store.Tx) error {
			return tx.Audit(trysail.AuditEvent{Caller: trysail.Caller{Name: word}, Operation: "Op", Resource: n, Outcome: trysail.AuditSuccess, Details: map[string]string{word: n}})
		},
		"key": func(tx *store.Tx) error {
			return tx.InsertKey(store.AccessKey{ID: n, Name: word, Secret: word, CreatedAt: when})
		},
		"no key": func(tx *store.Tx) error { return tx.DeleteKey(n) },
		"login":  func(tx *store.Tx) error { return tx.InsertLogin([]byte(n+word), n, when) },
		"manifest": func(tx *store.Tx) error {
			return tx.PutManifest(store.Manifest{Digest: digest, MediaType: word, Subject: word, Annotations: map[string]string{word: n}, Content: []byte(word + "\xff\x00")},
				[]store.ManifestReference{{Digest: "sha256:" + other, Blob: flag}}, word)
		},
		"no manifest": func(tx *store.Tx) error { return tx.DeleteManifest(digest) },
		"no tag":      func(tx *store.Tx) error { _, err := tx.DeleteManifestTag(word); return err },
		"image": func(tx *store.Tx) error {
			return service(tx, func(svc *trysail.Service) error { _, err := tx.RegisterImage(svc, other, digest); return err })
		},
		"no image": func(tx *store.Tx) error {
			return tx.DeleteImage(&trysail.Service{ID: id}, i)
		},
		"certificate": func(tx *store.Tx) error {
			return tx.InsertCertificate(&trysail.Certificate{ID: n, Name: "c" + n, CreatedAt: when, Tags: tags, Domains: []trysail.DomainCertificate{{Domain: other + ".example.com", Token: word}}})
		},
		"no certificate": func(tx *store.Tx) error { return tx.DeleteCertificate(n) },
		"domain": func(tx *store.Tx) error {
			return tx.UpdateDomain(&trysail.DomainCertificate{Domain: n + ".example.com", Refused: flag, NextTry: when})
		},
		"registry": func(tx *store.Tx) error {
			return tx.PutRegistry(trysail.Registry{Host: n, Username: word, Secret: word, PlainHTTP: flag})
		},
		"no registry": func(tx *store.Tx) error { return tx.DeleteRegistry(n) },
	}
	kinds := make([]string, 0, len(list))
	for kind := range list {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	return list[rapid.SampledFrom(kinds).Draw(t, "step")]
}
