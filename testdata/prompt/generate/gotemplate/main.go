// Fills in what Go's text/template makes of every case of a fixture file: its output, or that it
// fails. Run with a Go of at least 1.24:
//
//	go run testdata/prompt/generate/gotemplate/main.go testdata/prompt/gotemplate/cases.json
package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type fixture struct {
	Data  json.RawMessage `json:"data"`
	Cases []testCase      `json:"cases"`
}

type testCase struct {
	Template string  `json:"template"`
	Output   *string `json:"output,omitempty"`
	Error    string  `json:"error,omitempty"`
}

// Integers stay integers, so that a case can tell them from floats.
func typed(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil && !strings.ContainsAny(v.String(), ".eE") {
			return int(i)
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = typed(v[i])
		}
		return v
	case map[string]any:
		for k := range v {
			v[k] = typed(v[k])
		}
		return v
	}
	return v
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	path := os.Args[1]
	bytesIn, err := os.ReadFile(path)
	check(err)
	var f fixture
	check(json.Unmarshal(bytesIn, &f))
	d := json.NewDecoder(bytes.NewReader(f.Data))
	d.UseNumber()
	var raw any
	check(d.Decode(&raw))
	data := typed(raw)
	functions := template.FuncMap{"json": func(v any) string {
		b, _ := json.Marshal(v)
		return string(b)
	}}
	for i := range f.Cases {
		c := &f.Cases[i]
		c.Output, c.Error = nil, ""
		t, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(c.Template)
		var out bytes.Buffer
		if err == nil {
			err = t.Execute(&out, data)
		}
		if err != nil {
			c.Error = err.Error()
			continue
		}
		s := out.String()
		c.Output = &s
	}
	var result bytes.Buffer
	e := json.NewEncoder(&result)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	check(e.Encode(f))
	check(os.WriteFile(path, result.Bytes(), 0o644))
}
