package guard

import "syscall"

// Shares divides the file descriptors that the process may have among listeners by weight, and
// gives none more than most. Some are left for files and for connections of our own.
func Shares(most int, weights ...int) []int {
	limit := syscall.Rlimit{Cur: 1024}
	// Go raises the soft limit to the hard one at the start.
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	return share(int(min(limit.Cur, 1<<20)), most, weights)
}

// reserved is how many file descriptors are left for everything else, where there are enough.
const reserved = 256

func share(descriptors, most int, weights []int) []int {
	descriptors -= min(reserved, descriptors/2)
	total := 0
	for _, w := range weights {
		total += w
	}
	shares := make([]int, len(weights))
	for i, w := range weights {
		shares[i] = max(1, min(most, descriptors*w/total))
	}
	return shares
}
