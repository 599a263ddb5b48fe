package api

import (
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// This file has the requests and the answers that are about certificates and domains.

func readCreateCertificate(m members) control.CreateCertificateInput {
	m.require("certificateName", "domainName")
	return control.CreateCertificateInput{
		Name: zeroIfNil(m.string("certificateName")), Domain: zeroIfNil(m.string("domainName")),
		Alternatives: m.strings("subjectAlternativeNames"), Tags: readTags(m),
	}
}

func readGetCertificates(m members) control.GetCertificatesInput {
	return control.GetCertificatesInput{
		Name: zeroIfNil(m.string("certificateName")), Statuses: m.strings("certificateStatuses"),
		Details: zeroIfNil(m.bool("includeCertificateDetails")), PageToken: zeroIfNil(m.string("pageToken")),
	}
}

func readCertificateName(m members) string {
	return zeroIfNil(m.require("certificateName").string("certificateName"))
}

func readGetDomains(m members) string { return zeroIfNil(m.string("serviceName")) }

func readCheckDomain(m members) string {
	return zeroIfNil(m.require("domainName").string("domainName"))
}

type createCertificateResult struct {
	Certificate certificateSummary `json:"certificate"`
	Operations  []operationRecord  `json:"operations"`
}

type certificatesResult struct {
	Certificates  []certificateSummary `json:"certificates"`
	NextPageToken string               `json:"nextPageToken,omitzero"`
}

type certificateSummary struct {
	CertificateARN  string       `json:"certificateArn"`
	CertificateName string       `json:"certificateName"`
	DomainName      string       `json:"domainName"`
	Detail          *certificate `json:"certificateDetail,omitzero"`
	Tags            []tag        `json:"tags"`
}

// certificate is the detail of a certificate. What is not known before it is issued is left out.
type certificate struct {
	ARN                     string                    `json:"arn"`
	Name                    string                    `json:"name"`
	DomainName              string                    `json:"domainName"`
	Status                  trysail.CertificateStatus `json:"status"`
	SerialNumber            string                    `json:"serialNumber,omitzero"`
	SubjectAlternativeNames []string                  `json:"subjectAlternativeNames"`
	DomainValidationRecords []validationRecord        `json:"domainValidationRecords"`
	RequestFailureReason    string                    `json:"requestFailureReason,omitzero"`
	InUseResourceCount      int                       `json:"inUseResourceCount"`
	KeyAlgorithm            string                    `json:"keyAlgorithm"`
	CreatedAt               float64                   `json:"createdAt"`
	IssuedAt                float64                   `json:"issuedAt,omitzero"`
	IssuerCA                string                    `json:"issuerCA,omitzero"`
	NotBefore               float64                   `json:"notBefore,omitzero"`
	NotAfter                float64                   `json:"notAfter,omitzero"`
	EligibleToRenew         string                    `json:"eligibleToRenew"`
	RenewalSummary          *renewalSummary           `json:"renewalSummary,omitzero"`
	RevokedAt               float64                   `json:"revokedAt,omitzero"`
	RevocationReason        string                    `json:"revocationReason,omitzero"`
	Tags                    []tag                     `json:"tags"`
	SupportCode             string                    `json:"supportCode"`
}

type validationRecord struct {
	DomainName             string            `json:"domainName"`
	ResourceRecord         trysail.DNSRecord `json:"resourceRecord"`
	DNSRecordCreationState dnsRecordCreation `json:"dnsRecordCreationState"`
	ValidationStatus       string            `json:"validationStatus"`
}

type dnsRecordCreation struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

type renewalSummary struct {
	DomainValidationRecords []validationRecord `json:"domainValidationRecords"`
	RenewalStatus           string             `json:"renewalStatus"`
	RenewalStatusReason     string             `json:"renewalStatusReason"`
	UpdatedAt               float64            `json:"updatedAt"`
}

func (v view) createCertificateResult(out *control.CertificateOperation) createCertificateResult {
	return createCertificateResult{v.certificate(out.Certificate, true, time.Now()), v.operationsResult(out.Operations).Operations}
}

func (v view) deleteCertificateResult(out *control.CertificateOperation) operationsResult {
	return v.operationsResult(out.Operations)
}

func (v view) certificatesResult(page *control.CertificatePage) certificatesResult {
	answer := certificatesResult{make([]certificateSummary, len(page.Certificates)), page.NextPageToken}
	for i := range page.Certificates {
		answer.Certificates[i] = v.certificate(&page.Certificates[i], page.Details, time.Now())
	}
	return answer
}

func (v view) certificate(c *trysail.Certificate, details bool, now time.Time) certificateSummary {
	arn := c.ARN(v.cfg.Region, v.cfg.Account)
	answer := certificateSummary{CertificateARN: arn, CertificateName: c.Name, DomainName: c.DomainName(), Tags: newTags(c.Tags)}
	if !details {
		return answer
	}
	status := c.Status(now)
	d := &certificate{
		ARN: arn, Name: c.Name, DomainName: c.DomainName(), Status: status, InUseResourceCount: len(c.UsedBy),
		KeyAlgorithm: "EC_prime256v1", CreatedAt: seconds(c.CreatedAt), IssuedAt: optionalSeconds(c.IssuedAt),
		EligibleToRenew: "INELIGIBLE", Tags: answer.Tags, SupportCode: v.cfg.Account + "/" + arn,
	}
	for i := range c.Domains {
		domain := &c.Domains[i]
		d.SubjectAlternativeNames = append(d.SubjectAlternativeNames, domain.Domain)
		d.DomainValidationRecords = append(d.DomainValidationRecords, v.validationRecord(domain, now))
		if domain.Refused {
			d.RequestFailureReason = failureReason(domain)
		}
		if domain.Leaf != nil && !domain.Leaf.RevokedAt.IsZero() {
			d.RevokedAt, d.RevocationReason = seconds(domain.Leaf.RevokedAt), "UNSPECIFIED"
		}
	}
	if leaf := c.Domains[0].Leaf; leaf != nil && d.IssuedAt != 0 {
		d.SerialNumber, d.IssuerCA, d.KeyAlgorithm = leaf.Serial, leaf.Issuer, leaf.KeyAlgorithm
		d.NotBefore, d.NotAfter, d.EligibleToRenew = seconds(leaf.NotBefore), seconds(leaf.NotAfter), "ELIGIBLE"
		d.RenewalSummary = newRenewal(c, d.DomainValidationRecords, now)
	}
	answer.Detail = d
	return answer
}

func newTags(tags []trysail.Tag) []tag {
	list := make([]tag, len(tags))
	for i, t := range tags {
		list[i] = tag(t)
	}
	return list
}

// validationRecord is what a domain's owner has to set. AWS says in the creation state whether it could set the record by
// itself; here it says what is wrong, since no other member has room for that.
func (v view) validationRecord(d *trysail.DomainCertificate, now time.Time) validationRecord {
	r := validationRecord{
		DomainName: d.Domain, ResourceRecord: d.ValidationRecord(v.cfg.ValidationZone),
		DNSRecordCreationState: dnsRecordCreation{Code: "STARTED"}, ValidationStatus: "PENDING_VALIDATION",
	}
	if d.Valid(now) {
		r.DNSRecordCreationState.Code, r.ValidationStatus = "SUCCEEDED", "SUCCESS"
	}
	if d.Refused {
		r.ValidationStatus = "FAILED"
	}
	if d.Problem != nil {
		r.DNSRecordCreationState = dnsRecordCreation{"FAILED", problemText(d.Problem)}
	}
	return r
}

func problemText(f *trysail.Finding) string {
	text := string(f.Code) + ": " + f.Summary
	if f.Fix != "" {
		text += " " + f.Fix
	}
	return text
}

// failureReason is AWS's word for why a request failed for good.
func failureReason(d *trysail.DomainCertificate) string {
	if d.Problem != nil && d.Problem.Code == trysail.CodeCertRefused {
		return "DOMAIN_NOT_ALLOWED"
	}
	return "OTHER"
}

// newRenewal says how far the renewal of a certificate is: as far as that of the domain that has a problem, or else of the
// one whose turn comes first.
func newRenewal(c *trysail.Certificate, records []validationRecord, now time.Time) *renewalSummary {
	r := &renewalSummary{DomainValidationRecords: records, RenewalStatus: "Success"}
	var updated time.Time
	for i := range c.Domains {
		d := &c.Domains[i]
		if d.UpdatedAt.After(updated) {
			updated = d.UpdatedAt
		}
		due := !d.RenewAt.IsZero() && !now.Before(d.RenewAt)
		switch {
		case d.Problem != nil && due && !d.Valid(now):
			r.RenewalStatus, r.RenewalStatusReason = "Failed", problemText(d.Problem)
		case d.Problem != nil && due && r.RenewalStatus != "Failed":
			r.RenewalStatus, r.RenewalStatusReason = "PendingValidation", problemText(d.Problem)
		case due && r.RenewalStatus == "Success":
			r.RenewalStatus = "PendingAutoRenewal"
		}
	}
	r.UpdatedAt = seconds(updated)
	return r
}

type domainsResult struct {
	Domains []domain `json:"domains"`
}

type domainResult struct {
	Domain domain `json:"domain"`
}

// domain is an answer of Trysail's own operations. Times that have not come yet are left out.
type domain struct {
	DomainName       string              `json:"domainName"`
	Kind             trysail.DomainKind  `json:"kind"`
	ServiceName      string              `json:"serviceName"`
	CertificateNames []string            `json:"certificateNames"`
	Status           string              `json:"status"` // ISSUED, RENEWING, EXPIRED, REVOKED, FAILED, PENDING or NONE
	Issuer           string              `json:"issuer"`
	Challenge        string              `json:"challenge"`
	SerialNumber     string              `json:"serialNumber"`
	NotAfter         float64             `json:"notAfter,omitzero"`
	RenewAt          float64             `json:"renewAt,omitzero"`
	NextTryAt        float64             `json:"nextTryAt,omitzero"`
	FailedTries      int                 `json:"failedTries"`
	AddressRecords   []trysail.DNSRecord `json:"addressRecords"`
	ValidationRecord *trysail.DNSRecord  `json:"validationRecord,omitzero"`
	Problem          *trysail.Finding    `json:"problem,omitzero"`
	Seen             *trysail.Domain     `json:"seen,omitzero"`
	LastCheckedAt    float64             `json:"lastCheckedAt,omitzero"`
}

func (v view) domainsResult(list []trysail.DomainView) domainsResult {
	answer := domainsResult{make([]domain, len(list))}
	for i := range list {
		answer.Domains[i] = newDomain(&list[i], time.Now())
	}
	return answer
}

func (v view) domainResult(d *trysail.DomainView) domainResult {
	return domainResult{newDomain(d, time.Now())}
}

func newDomain(d *trysail.DomainView, now time.Time) domain {
	answer := domain{
		DomainName: d.Domain, Kind: d.Kind, ServiceName: d.Service, CertificateNames: orEmptyList(d.Certificates), Status: domainStatus(d, now),
		AddressRecords: orEmptyList(d.Addresses), Problem: d.Problem, Seen: d.Seen, FailedTries: d.Tries,
		RenewAt: optionalSeconds(d.RenewAt), NextTryAt: optionalSeconds(d.NextTry), LastCheckedAt: optionalSeconds(d.UpdatedAt),
	}
	if d.Validation.Name != "" {
		answer.ValidationRecord = &d.Validation
	}
	if l := d.Leaf; l != nil {
		answer.Issuer, answer.Challenge, answer.SerialNumber, answer.NotAfter = l.Issuer, l.Challenge, l.Serial, seconds(l.NotAfter)
	}
	return answer
}

func domainStatus(d *trysail.DomainView, now time.Time) string {
	switch {
	case d.Leaf != nil && !d.Leaf.RevokedAt.IsZero():
		return "REVOKED"
	case d.Valid(now) && !d.RenewAt.IsZero() && !now.Before(d.RenewAt):
		return "RENEWING"
	case d.Valid(now):
		return "ISSUED"
	case d.Leaf != nil:
		return "EXPIRED"
	case d.Refused:
		return "FAILED"
	case d.Token == "":
		return "NONE"
	}
	return "PENDING"
}
