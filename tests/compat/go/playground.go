package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// How long a playground may take to be ready, or to stop, on a slow machine.
const readyTimeout = 60 * time.Second

// The cluster setting of the same name, as the program's flag has it.
type apiVersion string

const (
	v1    apiVersion = "1"
	v1ttl apiVersion = "1ttl"
	v2    apiVersion = "2"
)

// A playground as a child process.
type playground struct {
	api       apiVersion
	command   *exec.Cmd
	endpoints []string
	folder    string
	ended     chan error
}

// Starts the program and waits until its first write and read have gone through raft.
func startPlayground(program string, api apiVersion) (*playground, error) {
	folder, err := os.MkdirTemp("", "tessera-compat-go-")
	if err != nil {
		return nil, err
	}
	readyFile := filepath.Join(folder, "ready.json")
	command := exec.Command(program, "playground", "--port", "0",
		"--api-version", string(api), "--ready-file", readyFile)
	if err := command.Start(); err != nil {
		os.RemoveAll(folder)
		return nil, err
	}
	cluster := &playground{api: api, command: command, folder: folder, ended: make(chan error, 1)}
	go func() { cluster.ended <- command.Wait() }()
	deadline := time.After(readyTimeout)
	for {
		text, err := os.ReadFile(readyFile)
		if err == nil {
			var ready struct {
				Endpoints []string `json:"pd_endpoints"`
			}
			if err := json.Unmarshal(text, &ready); err != nil {
				cluster.kill()
				return nil, err
			}
			cluster.endpoints = ready.Endpoints
			return cluster, nil
		}
		select {
		case err := <-cluster.ended:
			cluster.kill()
			return nil, fmt.Errorf("the playground ended before it was ready: %v", err)
		case <-deadline:
			cluster.kill()
			return nil, fmt.Errorf("the playground was not ready within %v", readyTimeout)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Asks the program to stop, and expects it to do so cleanly.
func (p *playground) stop() error {
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-p.ended:
		if err != nil {
			return fmt.Errorf("the playground on SIGTERM: %w", err)
		}
		return nil
	case <-time.After(readyTimeout):
		return errors.New("the playground did not stop on SIGTERM")
	}
}

func (p *playground) kill() {
	_ = p.command.Process.Kill()
	_ = os.RemoveAll(p.folder)
}
