// The DNS server of the node under test: CoreDNS with the plugins that it is told to use, and no others.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
)

func main() {
	// The order in which they are asked.
	dnsserver.Directives = []string{"ready", "errors", "kubernetes"}
	coremain.Run()
}
