package daemon

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/account"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/ledger"
)

// heard collects what this node has counted since its start: sessions and messages of clients,
// those of the operator's own users not among them.
type heard struct{ keeper *account.Keeper }

func heardDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("ehlogate_heard_"+name, help, labels, nil)
}

var (
	heardSessions    = heardDesc("sessions_total", "SMTP sessions by what STARTTLS was answered, and by whether TLS was used.", "starttls", "tls")
	heardVersions    = heardDesc("sessions_by_tls_version_total", "SMTP sessions by version of TLS, none in the clear.", "version")
	heardMessages    = heardDesc("messages_total", "Messages by their first verdict, and by whether they came over TLS.", "class", "tls")
	heardBySource    = heardDesc("messages_by_source_total", "Messages by their first verdict and its source.", "class", "source")
	heardByTier      = heardDesc("messages_by_tier_total", "Messages by their first verdict and the tier of the client.", "class", "tier")
	heardByCipher    = heardDesc("messages_by_cipher_total", "Messages over TLS by their first verdict and group of ciphers.", "class", "cipher")
	heardCorrections = heardDesc("corrections_total", "Messages whose verdict became one of another class.", "from", "to")
	heardHandshakes  = heardDesc("handshakes_total", "TLS handshakes: done, avoided at most, and failed.", "result")
	heardLeft        = heardDesc("clients_left_total", "Sessions that left, or were refused, for want of STARTTLS.")
	waveDesc         = prometheus.NewDesc("ehlogate_wave", "1 while a share is higher than usual, over the cluster.", []string{"share"}, nil)
)

// Describe describes nothing: which labels there are depends on what is heard.
func (h heard) Describe(chan<- *prometheus.Desc) {}

// Collect collects.
func (h heard) Collect(out chan<- prometheus.Metric) {
	r, corrected := h.keeper.Since()
	count := func(d *prometheus.Desc, n int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	for answer, uses := range r.Uses {
		count(heardSessions, uses.TLS, string(answer), "yes")
		count(heardSessions, uses.Plain, string(answer), "no")
	}
	for version, n := range r.TLS {
		count(heardVersions, n, version)
	}
	for class, n := range r.Messages {
		count(heardMessages, n.TLS, string(class), "yes")
		count(heardMessages, n.Plain, string(class), "no")
	}
	classes := func(d *prometheus.Desc, name string, c ledger.Classed) {
		count(d, c.Spam, string(policy.Spam), name)
		count(d, c.Ham, string(policy.Ham), name)
		count(d, c.None, string(policy.None), name)
	}
	for source, c := range r.Sources {
		classes(heardBySource, string(source), c)
	}
	for tier, c := range r.Tiers {
		classes(heardByTier, tier, c)
	}
	for cipher, c := range r.Ciphers {
		classes(heardByCipher, cipher, c)
	}
	for change, n := range corrected {
		count(heardCorrections, int64(n), string(change[0]), string(change[1]))
	}
	count(heardHandshakes, r.Handshakes.Done, "done")
	count(heardHandshakes, r.Handshakes.Avoided, "avoided")
	count(heardHandshakes, r.Handshakes.Failed, "failed")
	count(heardLeft, r.Handshakes.Left)
	lasting := map[ledger.Watched]float64{}
	for _, w := range h.keeper.Alarms.Waves() {
		if w.Ended.IsZero() {
			lasting[w.What] = 1
		}
	}
	for _, what := range ledger.AllWatched {
		out <- prometheus.MustNewConstMetric(waveDesc, prometheus.GaugeValue, lasting[what], string(what))
	}
}
