package mx

import (
	"bufio"
	"fmt"
	"io"
	"time"
)

// WriteTrace writes a trace of messages for a replay, one a second and a third of them spam, of so
// many clients, up to 16 in a /24.
func WriteTrace(w io.Writer, rows, clients int) error {
	out := bufio.NewWriter(w)
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for i := range rows {
		class := "ham"
		if i%3 == 0 {
			class = "spam"
		}
		// A prime step visits the clients in no order.
		c := i * 7919 % clients
		fmt.Fprintf(out, `{"id":%d,"time":%q,"client":{"addr":"%d.%d.%d.%d"},"tls_capable":true,"verdict":{"class":%q,"score":7.25,"source":"header"}}`+"\n",
			i+1, at.Add(time.Duration(i)*time.Second).Format(time.RFC3339), 11+c/16/256/16, c/16/256%16, c/16%256, c%16, class)
	}
	return out.Flush()
}
