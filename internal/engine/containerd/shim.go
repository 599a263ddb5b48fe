package containerd

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

// RunShim runs the shim. It takes its orders from os.Args and ends the process itself when they are wrong.
//
// The registry of plugins belongs to the process, and the shim loads all that is in it. So the daemon's plugins,
// which are there because they are linked in, are taken out first. This is also why the shim's own plugin is
// registered here and not by import: imported, it would load in the daemon too.
func RunShim(ctx context.Context) {
	registry.Reset()
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn:   newTaskService,
	})
	shim.RunShim(ctx, manager.NewShimManager("io.containerd.runc.v2"))
}

// newTaskService makes the service that creates, starts and watches the containers of one pod.
func newTaskService(ic *plugin.InitContext) (any, error) {
	publisher, err := get[shim.Publisher](ic, plugins.EventPlugin, "publisher")
	if err != nil {
		return nil, err
	}
	stop, err := get[shutdown.Service](ic, plugins.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	service, err := task.NewTaskService(ic.Context, publisher, stop)
	if err != nil {
		return nil, err
	}
	return newLogService(service), nil
}

func get[T any](ic *plugin.InitContext, kind plugin.Type, id string) (T, error) {
	var none T
	p, err := ic.GetByID(kind, id)
	if err != nil {
		return none, err
	}
	t, ok := p.(T)
	if !ok {
		return none, fmt.Errorf("plugin %s.%s is a %T", kind, id, p)
	}
	return t, nil
}
