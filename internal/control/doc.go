// Package control holds every API operation once, as a method: validate, authorise, write the desired state, audit.
// Nothing here touches pods or the edge; internal/reconcile does, when it sees the change in the store.
package control
