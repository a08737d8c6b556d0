module github.com/ehlogate/ehlogate

go 1.26.0

require (
	github.com/gaissmai/bart v0.30.0
	github.com/maypok86/otter/v2 v2.4.0
	go.etcd.io/bbolt v1.5.0
	golang.org/x/time v0.16.0
	pgregory.net/rapid v1.3.0
)

require golang.org/x/sys v0.45.0 // indirect
