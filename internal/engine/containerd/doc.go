// Package containerd is the part of the binary that runs as another program: containerd itself, and the shim that
// containerd starts once per pod. Both are chosen by how the binary was called; RoleOf tells which, and main asks it
// before it does anything else.
//
// The daemon runs as a child of the server, never inside it: it cannot be stopped and started again within one
// process, and a crash of either side must not take the other along. Its plugins are listed in plugins.go; they are
// those that CRI needs and no more.
//
// The package imports nothing of ours. It and the server are different programs that happen to share a file.
package containerd
