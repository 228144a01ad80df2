package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ticksPerSecond is the unit of /proc: USER_HZ, 100 on Linux everywhere.
const ticksPerSecond = 100

// cpu counts the seconds that the server's processes and this one have used. It
// tells what an event costs however busy the machine is; zero where there is no
// /proc.
type cpu struct{ server, self float64 }

func (b *bench) cpu(ctx context.Context) (cpu, error) {
	rows, err := b.admin.Query(ctx, "SELECT pid FROM pg_stat_activity")
	if err != nil {
		return cpu{}, err
	}
	defer rows.Close()
	c := cpu{self: cpuOf("self")}
	for rows.Next() {
		var pid int
		if err := rows.Scan(&pid); err != nil {
			return cpu{}, err
		}
		c.server += cpuOf(strconv.Itoa(pid))
	}
	return c, rows.Err()
}

// cpuOf reads the times in user and kernel mode: fields 14 and 15, counted from
// behind the name, which may hold anything.
func cpuOf(pid string) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%s/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	var sum float64
	for _, i := range []int{11, 12} {
		if i < len(fields) {
			ticks, _ := strconv.ParseFloat(fields[i], 64)
			sum += ticks
		}
	}
	return sum / ticksPerSecond
}
