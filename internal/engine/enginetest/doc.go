// Package enginetest holds what tests of engines, and of those who use one, need: Run, the conformance suite that
// every engine.Engine passes; Memory, an engine whose pods are goroutines; and TestProgram, the program that the
// suite runs in its containers.
package enginetest
