// SPDX-License-Identifier: GPL-2.0-only
// A static program of Go: it makes its system calls itself, so nothing can be preloaded.
package main

import "net/http"

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("ok")) })
	panic(http.ListenAndServe("127.0.0.1:18080", nil))
}
