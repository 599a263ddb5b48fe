package api

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lightsail"
	"github.com/aws/aws-sdk-go-v2/service/lightsail/types"
	"github.com/google/go-cmp/cmp"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

func TestSDK_Certificates(t *testing.T) {
	full := fullCertificate()
	pending := trysail.Certificate{
		ID: "1", Name: "new", CreatedAt: time.Now(), Domains: []trysail.DomainCertificate{{Domain: "example.com", Token: "aa"}, {Domain: "www.example.com", Token: "bb"}},
	}
	client := newSDKClient(t, &fake{
		createCert: func(in control.CreateCertificateInput) (*control.CertificateOperation, error) {
			return &control.CertificateOperation{Certificate: &pending, Operations: []trysail.Operation{{ID: "1", Type: "CreateCertificate", ResourceType: "Certificate", Status: trysail.OperationSucceeded}}}, nil
		},
		getCerts: func(in control.GetCertificatesInput) (*control.CertificatePage, error) {
			return &control.CertificatePage{Certificates: []trysail.Certificate{full}, Details: in.Details}, nil
		},
	}, testSecret)
	created, err := client.CreateCertificate(t.Context(), &lightsail.CreateCertificateInput{CertificateName: aws.String("new"), DomainName: aws.String("example.com")})
	if err != nil {
		t.Fatal(err)
	}
	d := created.Certificate.CertificateDetail
	if d.Status != types.CertificateStatusPendingValidation || d.SerialNumber != nil || d.IssuedAt != nil || d.RenewalSummary != nil || d.RequestFailureReason != nil ||
		!cmp.Equal(d.SubjectAlternativeNames, []string{"example.com", "www.example.com"}) || created.Operations[0].ResourceType != types.ResourceTypeCertificate {
		t.Errorf("pending: %+v", d)
	}
	r := d.DomainValidationRecords[1]
	if *r.ResourceRecord.Name != "_acme-challenge.www.example.com." || *r.ResourceRecord.Type != "CNAME" || *r.ResourceRecord.Value != "_bb.validations.example.test." ||
		r.ValidationStatus != types.CertificateDomainValidationStatusPendingValidation {
		t.Errorf("record: %+v", r)
	}

	short, err := client.GetCertificates(t.Context(), &lightsail.GetCertificatesInput{})
	if err != nil || short.Certificates[0].CertificateDetail != nil || *short.Certificates[0].CertificateName != "cert" {
		t.Errorf("got %+v, %v", short, err)
	}
	long, err := client.GetCertificates(t.Context(), &lightsail.GetCertificatesInput{IncludeCertificateDetails: true})
	if err != nil {
		t.Fatal(err)
	}
	d = long.Certificates[0].CertificateDetail
	if d.Status != types.CertificateStatusRevoked || *d.IssuerCA != "Let's Encrypt" || d.InUseResourceCount != 1 || *d.SupportCode != "111122223333/"+*d.Arn {
		t.Errorf("got %+v", d)
	}
	failed := d.DomainValidationRecords[1]
	if failed.ValidationStatus != types.CertificateDomainValidationStatusFailed || *failed.DnsRecordCreationState.Message != "CERT-DNS: www.example.com points to 203.0.113.9. Set the record." {
		t.Errorf("got %+v", failed)
	}
}

func TestHandler_Domains(t *testing.T) {
	at := time.UnixMilli(1652233466250)
	full := fullCertificate()
	view := trysail.DomainView{
		DomainCertificate: full.Domains[1], Kind: trysail.DomainCustom, Service: "web", Certificates: []string{"cert"},
		Addresses: []trysail.DNSRecord{{Name: "www.example.com.", Type: "A", Value: "198.51.100.4"}}, Validation: full.Domains[1].ValidationRecord("v.example.test"),
	}
	var asked string
	server := newServer(t, &fake{
		domains: func(service string) ([]trysail.DomainView, error) {
			asked = service
			return []trysail.DomainView{view}, nil
		},
		checkDomain: func(name string) (*trysail.DomainView, error) { asked = name; return &view, nil },
	})
	var list struct {
		Domains []map[string]any `json:"domains"`
	}
	if err := json.Unmarshal([]byte(do(t, server, trysailPrefix+"GetDomains", `{"serviceName":"web"}`).body), &list); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"domainName": "www.example.com", "kind": "custom", "serviceName": "web", "certificateNames": []any{"cert"}, "status": "FAILED", "issuer": "", "challenge": "",
		"serialNumber": "", "failedTries": 0.0, "renewAt": seconds(at), "lastCheckedAt": seconds(at),
		"addressRecords":   []any{map[string]any{"name": "www.example.com.", "type": "A", "value": "198.51.100.4"}},
		"validationRecord": map[string]any{"name": "_acme-challenge.www.example.com.", "type": "CNAME", "value": "_bb.v.example.test."},
		"problem":          map[string]any{"code": "CERT-DNS", "confidence": "", "summary": "www.example.com points to 203.0.113.9.", "fix": "Set the record."},
	}
	if diff := cmp.Diff(want, list.Domains[0]); diff != "" || asked != "web" {
		t.Errorf("asked %q, domain (-want +got):\n%s", asked, diff)
	}
	do(t, server, trysailPrefix+"CheckDomain", `{"domainName":"x.example.com"}`)
	if asked != "x.example.com" {
		t.Errorf("asked %q", asked)
	}
	wantException(t, do(t, server, trysailPrefix+"CheckDomain", `{}`), 400, "InvalidInputException", `Missing required member "domainName".`)
}
