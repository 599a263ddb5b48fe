// Program is what the tests of the engine run in containers: the program of the conformance suite, and beyond it
//
//	listen ADDR…           listen on TCP addresses, or on UDP ones that begin with udp:
//	echo PORT…             answer what comes to these ports, TCP and UDP, with the same
//	reach NETWORK ADDR     end with 0 if such a thing answers there within a second
//	child WORD…            run itself with the words as a child, and end with the child's code, or 128 and its signal
//	background DELAY       leave a process without its parent, and end with 0 after the delay
//	leave                  start a process that waits, and end at once
//	fork N                 start so many processes that wait
//	files N                open so many files
//
// A word "--entry" before it is skipped.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/trysail/trysail/internal/engine/enginetest"
)

func main() {
	args := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(s string) bool { return s == "--entry" })
	if len(args) == 0 {
		args = []string{"wait"}
	}
	switch args[0] {
	case "listen":
		for _, addr := range args[1:] {
			defer listen(addr).Close()
		}
	case "echo":
		for _, port := range args[1:] {
			echo(":" + port)
		}
	case "reach":
		check(reach(args[1], args[2]))
		return
	case "child":
		os.Exit(child(args[1:]))
	case "background":
		delay, err := time.ParseDuration(args[1])
		check(err)
		check(start("leave", &syscall.SysProcAttr{Setsid: true}).Wait())
		time.Sleep(delay)
		return
	case "leave":
		start("wait", nil)
		return
	case "fork":
		for range number(args[1]) {
			cmd := exec.Command(os.Args[0], "wait")
			if err := cmd.Start(); err != nil {
				fmt.Println(err)
			}
		}
	case "files":
		for range number(args[1]) {
			f, err := os.Open("/program")
			check(err)
			defer f.Close()
		}
	default:
		os.Exit(enginetest.Main())
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	<-term
}

func listen(addr string) io.Closer {
	if udp, ok := strings.CutPrefix(addr, "udp:"); ok {
		c, err := net.ListenPacket("udp", udp)
		check(err)
		return c
	}
	l, err := net.Listen("tcp", addr)
	check(err)
	return l
}

func echo(addr string) {
	l, err := net.Listen("tcp", addr)
	check(err)
	go func() {
		for {
			c, err := l.Accept()
			check(err)
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	u, err := net.ListenPacket("udp", addr)
	check(err)
	go func() {
		b := make([]byte, 64)
		for {
			n, from, err := u.ReadFrom(b)
			check(err)
			_, _ = u.WriteTo(b[:n], from)
		}
	}()
}

func reach(network, addr string) error {
	c, err := net.DialTimeout(network, addr, time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

func child(args []string) int {
	cmd := exec.Command(os.Args[0], args...)
	check(cmd.Start())
	_ = cmd.Wait()
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

func start(arg string, attr *syscall.SysProcAttr) *exec.Cmd {
	cmd := exec.Command(os.Args[0], arg)
	cmd.SysProcAttr = attr
	check(cmd.Start())
	return cmd
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	check(err)
	return n
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
