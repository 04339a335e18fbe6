// SPDX-License-Identifier: MIT OR Apache-2.0

// An HTTP server that listens on the socket it is given.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// The first socket that app-cluster passes.
	listener, err := net.FileListener(os.NewFile(3, "http"))
	if err != nil {
		log.Fatalln("descriptor 3 is not a listening socket:", err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{
			"pid":        os.Getpid(),
			"slot":       os.Getenv("APP_CLUSTER_SLOT"),
			"generation": os.Getenv("APP_CLUSTER_GENERATION"),
		})
	})
	server := &http.Server{}
	drained := make(chan struct{})
	go func() {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		<-stop
		// Stops accepting and returns when all requests are answered.
		server.Shutdown(context.Background())
		close(drained)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		log.Fatalln(err)
	}
	// Serve returns at once, Shutdown when it is done.
	<-drained
}
