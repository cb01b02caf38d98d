// Command interop reads what trustfed issues with go-spiffe and crypto/x509.
//
//	interop verify FOLDER            answers FOLDER/cases.json, one JSON line per case
//	interop watch AUDIENCE COUNT     uses the Workload API at SPIFFE_ENDPOINT_SOCKET until it has seen COUNT X509-SVIDs
//	interop fetch URL ID FILE        fetches a bundle from an https_spiffe endpoint that must show ID under the bundle in FILE
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "verify":
		return verify(args[1])
	case len(args) == 3 && args[0] == "watch":
		count, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return watch(args[1], count)
	case len(args) == 4 && args[0] == "fetch":
		return fetch(args[1], args[2], args[3])
	}
	return fmt.Errorf("usage: interop verify FOLDER | watch AUDIENCE COUNT | fetch URL ID FILE")
}

// say prints one JSON line.
func say(line map[string]any) {
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(text))
}
