package redis

import "sync/atomic"

// Stats are counts since the start; read them at any time.
type Stats struct {
	// Learnt counts lessons, Batches batches that Redis took, Trips pipelines sent, Failed batches
	// that were put off.
	Learnt, Batches, Trips, Failed atomic.Uint64
	// Spooled is how many batches are in the spool now, Replayed how many came out of it.
	Spooled  atomic.Int64
	Replayed atomic.Uint64
	// Dropped counts changes for which the spool had no room, Refused those that Redis cannot take,
	// Lost the times that Redis had lost what could not be sent again.
	Dropped, Refused, Lost atomic.Uint64
	// Hits counts recollections from memory, Read those from Redis, Late those that it did not
	// answer in time.
	Hits, Read, Late atomic.Uint64
	// Invalidated counts networks in which another node changed a tier.
	Invalidated atomic.Uint64
}
