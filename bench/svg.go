package bench

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// The plots are SVG written by hand: a page without scripts opens anywhere and
// still does in ten years. Colours are classes, which the page's style resolves
// for light and dark screens.

// canvas is an SVG under construction.
type canvas struct {
	strings.Builder
	width, height float64
}

func newCanvas(width, height float64, title string) *canvas {
	c := &canvas{width: width, height: height}
	fmt.Fprintf(c, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, width, height, html.EscapeString(title))
	return c
}

func (c *canvas) svg() string { return c.String() + "</svg>" }

func (c *canvas) line(class string, x1, y1, x2, y2 float64) {
	fmt.Fprintf(c, `<line class="%s" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`, class, x1, y1, x2, y2)
}

func (c *canvas) rect(class string, x, y, w, h float64, tip string) {
	fmt.Fprintf(c, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s</title></rect>`, class, x, y, max(w, 0), h, html.EscapeString(tip))
}

func (c *canvas) dot(class string, x, y float64, tip string) {
	fmt.Fprintf(c, `<circle class="%s" cx="%.1f" cy="%.1f" r="4"><title>%s</title></circle>`, class, x, y, html.EscapeString(tip))
}

// text writes s; anchor is start, middle or end.
func (c *canvas) text(class, anchor string, x, y float64, s string) {
	fmt.Fprintf(c, `<text class="%s" text-anchor="%s" x="%.1f" y="%.1f">%s</text>`, class, anchor, x, y, html.EscapeString(s))
}

// whisker is an interval, drawn across.
func (c *canvas) whisker(x1, x2, y float64) {
	c.line("whisker", x1, y, x2, y)
	c.line("whisker", x1, y-4, x1, y+4)
	c.line("whisker", x2, y-4, x2, y+4)
}

// legend puts the names of the series in rows at the top, which the charts leave
// room for.
func (c *canvas) legend(left float64, names []string) {
	x, y := left, 6.0
	for i, name := range names {
		width := 34 + 6.6*float64(len([]rune(name)))
		if x+width > c.width {
			x, y = left, y+18
		}
		c.rect(fmt.Sprintf("s%d", i), x, y, 11, 11, name)
		c.text("label", "start", x+16, y+10, name)
		x += width
	}
}

// niceStep is 1, 2 or 5 times a power of ten, so that about n steps make up to.
func niceStep(upTo float64, n int) float64 {
	raw := upTo / float64(n)
	power := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, f := range []float64{1, 2, 5} {
		if raw <= f*power {
			return f * power
		}
	}
	return 10 * power
}

// row is one line of a chart of lying bars.
type row struct {
	name, value string // what stands left and right of it
	class       string
	length      float64
	low, high   float64 // interval; both 0 = none
}

const rowHeight = 30

// lyingBars draws a bar for each row, and an upright line at mark, unless that
// is 0.
func lyingBars(title, unit string, rows []row, mark float64) string {
	const left, right, top = 325.0, 165.0, 14.0
	c := newCanvas(900, top+rowHeight*float64(len(rows))+34, title)
	most := mark * 1.25
	for _, r := range rows {
		most = max(most, r.length, r.high)
	}
	if mark > 0 {
		most = min(most, 4*mark) // one far beyond the mark does not squeeze the others
	}
	scale := func(v float64) float64 { return left + min(v/most, 1)*(c.width-left-right) }
	bottom := top + rowHeight*float64(len(rows))
	step := niceStep(most, 6)
	for v := 0.0; v <= most; v += step {
		c.line("grid", scale(v), top-6, scale(v), bottom)
		c.text("tick", "middle", scale(v), bottom+14, fmt.Sprintf("%g", math.Round(v*1000)/1000))
	}
	c.text("tick", "middle", (left+c.width-right)/2, bottom+30, unit)
	for i, r := range rows {
		y := top + rowHeight*float64(i)
		c.text("label", "end", left-10, y+17, r.name)
		c.rect(r.class, left, y+3, scale(r.length)-left, rowHeight-10, r.name+": "+r.value)
		if r.high > 0 {
			c.whisker(scale(r.low), scale(r.high), y+rowHeight/2-2)
		}
		c.text("label", "start", c.width-right+10, y+17, r.value)
	}
	if mark > 0 {
		c.line("mark", scale(mark), top-10, scale(mark), bottom)
	}
	return c.svg()
}

// curve is one series over the places of a chart.
type curve struct {
	name   string
	points []Summary // without samples: no point
	dashed bool
}

// curves draws series over named places, the value on a logarithmic axis.
func curves(title, unit string, places []string, list []curve) string {
	const left, right, top, foot = 60.0, 20.0, 52.0, 44.0
	c := newCanvas(900, 380, title)
	low, high := math.Inf(1), 0.0
	for _, s := range list {
		for _, p := range s.points {
			if p.Median > 0 {
				low, high = min(low, p.Median), max(high, p.Median)
			}
		}
	}
	if high == 0 {
		return c.svg()
	}
	low, high = math.Log10(low*0.8), math.Log10(high*1.25)
	y := func(v float64) float64 {
		return c.height - foot - (math.Log10(v)-low)/(high-low)*(c.height-foot-top)
	}
	x := func(i int) float64 {
		return left + (float64(i)+0.5)/float64(len(places))*(c.width-left-right)
	}
	for power := math.Floor(low); power <= high; power++ {
		for _, f := range []float64{1, 2, 5} {
			v := f * math.Pow(10, power)
			if l := math.Log10(v); l >= low && l <= high {
				c.line("grid", left, y(v), c.width-right, y(v))
				c.text("tick", "end", left-8, y(v)+4, fmt.Sprintf("%g", v))
			}
		}
	}
	c.text("tick", "start", 4, top-10, unit)
	for i, name := range places {
		c.text("label", "middle", x(i), c.height-foot+20, name)
	}
	names := make([]string, len(list))
	for i, s := range list {
		names[i] = s.name
		c.curve(i, s, x, y)
	}
	c.legend(left+40, names)
	return c.svg()
}

func (c *canvas) curve(number int, s curve, x func(int) float64, y func(float64) float64) {
	class := fmt.Sprintf("l%d", number)
	if s.dashed {
		class += " dashed"
	}
	last := -1
	for i, p := range s.points {
		if p.Median <= 0 {
			continue
		}
		if last >= 0 {
			c.line(class, x(last), y(s.points[last].Median), x(i), y(p.Median))
		}
		last = i
	}
	for i, p := range s.points {
		if p.Median <= 0 {
			continue
		}
		if p.Low > 0 {
			c.line("whisker", x(i), y(p.Low), x(i), y(p.High))
		}
		c.dot(fmt.Sprintf("s%d", number), x(i), y(p.Median), fmt.Sprintf("%s: %.1f", s.name, p.Median))
	}
}

// stacks draws for every place the parts on top of each other.
func stacks(title, unit string, places, parts []string, values [][]float64) string {
	const left, right, top, foot = 60.0, 20.0, 34.0, 30.0
	c := newCanvas(900, 320, title)
	most := 0.0
	for _, v := range values {
		sum := 0.0
		for _, part := range v {
			sum += max(part, 0)
		}
		most = max(most, sum)
	}
	if most == 0 {
		return c.svg()
	}
	floor := c.height - foot
	scale := (floor - top) / (most * 1.08)
	for v, step := 0.0, niceStep(most, 5); v <= most*1.08; v += step {
		c.line("grid", left, floor-v*scale, c.width-right, floor-v*scale)
		c.text("tick", "end", left-8, floor-v*scale+4, fmt.Sprintf("%g", v))
	}
	c.text("tick", "start", 4, top-10, unit)
	width := (c.width - left - right) / float64(len(places))
	for i, name := range places {
		x, y, sum := left+width*(float64(i)+0.25), floor, 0.0
		for j, v := range values[i] {
			v = max(v, 0)
			y -= v * scale
			sum += v
			c.rect(fmt.Sprintf("s%d", j), x, y, width/2, v*scale, fmt.Sprintf("%s: %.1f", parts[j], v))
		}
		c.text("label", "middle", x+width/4, y-6, fmt.Sprintf("%.0f", sum))
		c.text("label", "middle", x+width/4, floor+18, name)
	}
	c.legend(left+40, parts)
	return c.svg()
}
