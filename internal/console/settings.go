package console

import (
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/trysail/trysail"
	"github.com/trysail/trysail/internal/control"
)

// settingsView is the settings of the installation.
type settingsView struct {
	Keys       []control.AccessKey
	Registries []control.Registry
	Images     *control.NodeImages
	Services   []string
	Roles      []trysail.Role
	New        *control.AccessKey // one that was just made: its secret is shown this once
	Own        string             // id of the key that the session is of
	Endpoint   string
	Running    runningView
}

// runningView is what is known of the program, without asking anybody elsewhere.
type runningView struct {
	Version, Go string
	Since       time.Time
	Installed
}

// showSettings is keys, registries and what images take up.
func (c *Console) showSettings(v *visit) (*page, error) { return c.settingsPage(v, nil) }

func (c *Console) settingsPage(v *visit, made *control.AccessKey) (*page, error) {
	view := settingsView{New: made, Own: v.caller.AccessKeyID, Endpoint: c.cfg.Endpoint, Roles: trysail.Roles()}
	var err error
	if view.Keys, err = c.control.ListAccessKeys(v.Context(), v.caller); err != nil {
		return nil, err
	}
	if view.Registries, err = c.control.ListRegistries(v.Context(), v.caller); err != nil {
		return nil, err
	}
	services, err := c.control.GetContainerServices(v.Context(), v.caller, "")
	if err != nil {
		return nil, err
	}
	for i := range services {
		view.Services = append(view.Services, services[i].Name)
	}
	if c.control.NodeImages != nil {
		if view.Images, err = c.control.ListNodeImages(v.Context(), v.caller); err != nil {
			return nil, err
		}
	}
	view.Running = runningView{Version: c.cfg.Version, Go: runtime.Version(), Since: c.started}
	if c.cfg.Installed != nil {
		view.Running.Installed = c.cfg.Installed(v.Context())
	}
	return &page{Template: "settings", Title: "Settings", Section: "settings", D: view}, nil
}

// createKey shows the secret of the new key in this answer and never again.
func (c *Console) createKey(v *visit) (*page, error) {
	in := control.CreateAccessKeyInput{Name: strings.TrimSpace(v.PostFormValue("name")), Role: trysail.Role(v.PostFormValue("role"))}
	in.Services = strings.FieldsFunc(v.PostFormValue("services"), func(r rune) bool { return strings.ContainsRune(" ,\r\n\t", r) })
	key, err := c.control.CreateAccessKey(v.Context(), v.caller, in)
	if err != nil {
		return v.outcome(Root+"settings", err, "")
	}
	return c.settingsPage(v, key)
}

func (c *Console) deleteKey(v *visit) (*page, error) {
	id := v.PostFormValue("id")
	err := c.control.DeleteAccessKey(v.Context(), v.caller, id)
	return v.outcome(Root+"settings", err, fmt.Sprintf("Access key %s is deleted.", id))
}

// putRegistry sets a registry. A secret that is left empty stays as it is.
func (c *Console) putRegistry(v *visit) (*page, error) {
	username, plain := strings.TrimSpace(v.PostFormValue("username")), v.PostFormValue("plain") != ""
	mirrors := strings.Fields(v.PostFormValue("mirrors"))
	in := control.PutRegistryInput{Host: strings.TrimSpace(v.PostFormValue("host")), Username: &username, PlainHTTP: &plain, Mirrors: &mirrors}
	if secret := v.PostFormValue("secret"); secret != "" {
		in.Secret = &secret
	}
	if ca := strings.TrimSpace(v.PostFormValue("ca")); ca != "" {
		ca = strings.ReplaceAll(ca, "\r\n", "\n") + "\n"
		in.CA = &ca
	}
	_, err := c.control.PutRegistry(v.Context(), v.caller, in)
	return v.outcome(Root+"settings", err, fmt.Sprintf("Registry %s is set.", in.Host))
}

func (c *Console) deleteRegistry(v *visit) (*page, error) {
	host := v.PostFormValue("host")
	err := c.control.DeleteRegistry(v.Context(), v.caller, host)
	return v.outcome(Root+"settings", err, fmt.Sprintf("Registry %s is forgotten.", host))
}
