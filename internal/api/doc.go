// Package api serves the Lightsail container API and Trysail's own operations: AWS JSON 1.1 over HTTP.
//
// Every call is POST / with the operation in X-Amz-Target. One handler does what is the same for all of them:
//
//	look up the operation · parse the signature · find the secret · read the body, up to a limit · verify ·
//	decode · call control · encode, or turn the error into an AWS exception
//
// Each operation is one entry of the table in operations.go and one method of control; nothing is decided here except
// what a request says and whether it is complete. docs/api-coverage.md is written from that table by a test.
//
// The limits come before the work: the signature's form, date and key id are checked before the body is read, the
// body's size before it is hashed, its depth before it is decoded.
package api
