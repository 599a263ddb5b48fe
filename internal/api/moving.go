package api

import (
	"encoding/base64"
	"encoding/json"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// The operations by which an installation moves to another one.

func readExportRows(m members) control.ExportRowsInput {
	m.require("table")
	return control.ExportRowsInput{Table: zeroIfNil(m.string("table")), PageToken: zeroIfNil(m.string("pageToken"))}
}

// exportRowsResult has each row as JSON text of its own: a list of rows in a request would be read twice.
type exportRowsResult struct {
	Format        int      `json:"format"`
	Rows          []string `json:"rows"`
	NextPageToken string   `json:"nextPageToken,omitempty"`
}

func (v view) exportRowsResult(p *control.MovingRows) exportRowsResult {
	answer := exportRowsResult{Format: p.Format, NextPageToken: p.NextPageToken, Rows: make([]string, len(p.Rows))}
	for i, r := range p.Rows {
		answer.Rows[i] = string(r)
	}
	return answer
}

func readImportRows(m members) control.ImportRowsInput {
	m.require("table", "format", "rows")
	in := control.ImportRowsInput{Table: zeroIfNil(m.string("table")), Format: zeroIfNil(m.int("format"))}
	for _, text := range m.strings("rows") {
		in.Rows = append(in.Rows, json.RawMessage(text))
	}
	return in
}

type importRowsResult struct {
	Changed int `json:"changed"`
}

func (v view) importRowsResult(changed int) importRowsResult { return importRowsResult{changed} }

func readListFiles(m members) control.ListMovingFilesInput {
	return control.ListMovingFilesInput{Dir: zeroIfNil(m.string("dir")), Digests: zeroIfNil(m.bool("digests")), PageToken: zeroIfNil(m.string("pageToken"))}
}

type movingFile struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	Digest string `json:"digest,omitempty"`
}

type filesResult struct {
	Files         []movingFile `json:"files"`
	NextPageToken string       `json:"nextPageToken,omitempty"`
}

func (v view) filesResult(p *control.MovingFilePage) filesResult {
	answer := filesResult{Files: make([]movingFile, len(p.Files)), NextPageToken: p.NextPageToken}
	for i, f := range p.Files {
		answer.Files[i] = movingFile(f)
	}
	return answer
}

func readReadFile(m members) control.ReadMovingFileInput {
	m.require("path")
	return control.ReadMovingFileInput{Path: zeroIfNil(m.string("path")), Offset: zeroIfNil(m.long("offset"))}
}

type fileResult struct {
	Data string `json:"data"` // base64
	Size int64  `json:"size"`
}

func (v view) fileResult(c *control.MovingChunk) fileResult {
	return fileResult{base64.StdEncoding.EncodeToString(c.Data), c.Size}
}

func readWriteFile(m members) control.WriteMovingFileInput {
	m.require("path", "data")
	data, err := base64.StdEncoding.DecodeString(zeroIfNil(m.string("data")))
	if err != nil {
		m.fail(notReadable(`Member "data" must be base64.`))
	}
	return control.WriteMovingFileInput{
		Path: zeroIfNil(m.string("path")), Offset: zeroIfNil(m.long("offset")), Data: data, Replace: zeroIfNil(m.bool("replace")), Last: zeroIfNil(m.bool("last")),
	}
}

func readForward(m members) control.ForwardServiceInput {
	m.require("serviceName")
	return control.ForwardServiceInput{
		ServiceName: zeroIfNil(m.string("serviceName")), Version: zeroIfNil(m.int("version")), To: m.strings("to"), CA: zeroIfNil(m.string("caCertificate")),
		Stop: zeroIfNil(m.bool("stop")),
	}
}

// forward is a service that has moved. To is empty for one that has not.
type forward struct {
	ServiceName string   `json:"serviceName"`
	To          []string `json:"to"`
	Stop        bool     `json:"stop"` // its pods here are stopped
	Back        bool     `json:"back"` // it comes back as soon as its pods here are healthy
}

type forwardResult struct {
	Forward forward `json:"forward"`
}

type forwardsResult struct {
	Forwards []forward `json:"forwards"`
}

func (v view) forwardResult(f *control.ServiceForward) forwardResult {
	return forwardResult{newForward(f.ServiceName, f.Forward)}
}

func (v view) forwardsResult(list []control.ServiceForward) forwardsResult {
	answer := forwardsResult{make([]forward, len(list))}
	for i, f := range list {
		answer.Forwards[i] = newForward(f.ServiceName, f.Forward)
	}
	return answer
}

func newForward(name string, f trysail.Forward) forward {
	shown := forward{ServiceName: name, To: make([]string, len(f.To)), Stop: f.Stop, Back: f.Back}
	for i, addr := range f.To {
		shown.To[i] = addr.String()
	}
	return shown
}
