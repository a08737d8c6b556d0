module github.com/ehlogate/ehlogate

go 1.26.0

require (
	github.com/gaissmai/bart v0.30.0
	pgregory.net/rapid v1.3.0
)
