module github.com/ehlogate/ehlogate

go 1.26.0

require (
	github.com/d--j/go-milter v0.10.1
	github.com/gaissmai/bart v0.30.0
	github.com/maypok86/otter/v2 v2.4.0
	go.etcd.io/bbolt v1.5.0
	golang.org/x/time v0.16.0
	pgregory.net/rapid v1.3.0
)

require (
	github.com/emersion/go-message v0.18.2 // indirect
	golang.org/x/sys v0.45.0 // indirect
	golang.org/x/text v0.28.0 // indirect
)
