package trysail

// ServiceSettings is what can be set of a service that Lightsail has no word for. The zero value is what a new service
// has. It is stored and sent as JSON: members are only ever added, and one that is absent is zero.
type ServiceSettings struct {
	// AccessLog makes the edge write one line for each request of the service.
	AccessLog bool `json:"accessLog"`
	// AccessLogHealthChecks adds the edge's own health checks to them.
	AccessLogHealthChecks bool `json:"accessLogHealthChecks"`
	EdgeRules
}
