// Writes what Go's text/template makes of every go/*.gotmpl for every conversation, given the
// variables that Ollama gives, to go/*.expected. Run in testdata/prompt with a Go of at least 1.24:
//
//	go run generate/gochat/main.go
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"text/template"
)

type arguments map[string]any

func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

func (a arguments) String() string  { return text(map[string]any(a)) }
func (t tools) String() string      { return text([]tool(t)) }
func (t tool) String() string       { return text(t) }
func (f function) String() string   { return text(f) }
func (p properties) String() string { return text(map[string]property(p)) }

type call struct {
	ID       string
	Function struct {
		Index     int
		Name      string
		Arguments arguments
	}
}

type message struct {
	Role, Content, Thinking string
	Images                  []string
	ToolCalls               []call
	ToolName, ToolCallID    string
}

type types []string

func (t *types) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*t = types{one}
		return nil
	}
	var many []string
	err := json.Unmarshal(b, &many)
	*t = many
	return err
}

func (t types) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

func (t types) String() string {
	switch len(t) {
	case 0:
		return ""
	case 1:
		return t[0]
	}
	return fmt.Sprint([]string(t))
}

type property struct {
	AnyOf       []property `json:"anyOf,omitempty"`
	Type        types      `json:"type,omitempty"`
	Items       any        `json:"items,omitempty"`
	Description string     `json:"description,omitempty"`
	Enum        []any      `json:"enum,omitempty"`
}

type properties map[string]property

type function struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Parameters  struct {
		Type       string     `json:"type"`
		Required   []string   `json:"required,omitempty"`
		Properties properties `json:"properties"`
	} `json:"parameters"`
}

type tool struct {
	Type     string   `json:"type"`
	Items    any      `json:"items,omitempty"`
	Function function `json:"function"`
}

type tools []tool

type conversation struct {
	Messages []struct {
		Role       string `json:"role"`
		Content    string `json:"content"`
		ToolName   string `json:"tool_name"`
		ToolCallID string `json:"tool_call_id"`
		Thinking   string `json:"thinking"`
		ToolCalls  []struct {
			ID        string    `json:"id"`
			Name      string    `json:"name"`
			Arguments arguments `json:"arguments"`
		} `json:"tool_calls"`
	} `json:"messages"`
	Tools tools `json:"tools"`
	Think *bool `json:"think"`
}

var typescript = map[string]string{
	"string": "string", "number": "number", "integer": "number", "boolean": "boolean",
	"array": "any[]", "object": "Record<string, any>", "null": "null",
}

func typeScriptType(v any) string {
	p, ok := v.(property)
	var names []string
	for _, alternative := range p.AnyOf {
		names = append(names, typeScriptType(alternative))
	}
	for _, t := range p.Type {
		if len(p.AnyOf) == 0 {
			names = append(names, typescript[t])
		}
	}
	if !ok || len(names) == 0 {
		return "any"
	}
	return strings.Join(names, " | ")
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func parse(source string) *template.Template {
	functions := template.FuncMap{
		"json": text, "toTypeScriptType": typeScriptType,
		"currentDate":   func(...string) string { return "2026-11-24" },
		"yesterdayDate": func(...string) string { return "2026-11-23" },
	}
	return template.Must(template.New("").Option("missingkey=zero").Funcs(functions).Parse(source))
}

func render(source string, c conversation) string {
	var system []string
	var messages []*message
	for _, m := range c.Messages {
		if m.Role == "system" {
			system = append(system, m.Content)
		}
		if n := len(messages); n > 0 && messages[n-1].Role == m.Role && m.Role != "tool" {
			messages[n-1].Content += "\n\n" + m.Content
			continue
		}
		one := &message{Role: m.Role, Content: m.Content, Thinking: m.Thinking, ToolName: m.ToolName, ToolCallID: m.ToolCallID}
		for i, t := range m.ToolCalls {
			k := call{ID: t.ID}
			k.Function.Index, k.Function.Name, k.Function.Arguments = i, t.Name, t.Arguments
			one.ToolCalls = append(one.ToolCalls, k)
		}
		messages = append(messages, one)
	}
	var out bytes.Buffer
	if strings.Contains(source, ".Messages") {
		check(parse(source).Execute(&out, map[string]any{
			"System": strings.Join(system, "\n\n"), "Messages": messages, "Tools": c.Tools, "Response": "",
			"Think": c.Think != nil && *c.Think, "ThinkLevel": "", "IsThinkSet": c.Think != nil,
		}))
		return out.String()
	}
	if !strings.Contains(source, ".Response") {
		source += "{{ .Response }}"
	}
	open, _, _ := strings.Cut(source, "{{ .Response }}")
	whole, last := parse(source), parse(open+"{{ .Response }}")
	var s, p, r string
	execute := func(t *template.Template) {
		check(t.Execute(&out, map[string]any{"System": s, "Prompt": p, "Response": r}))
		s, p, r = "", "", ""
	}
	for _, m := range messages {
		switch m.Role {
		case "system":
			if p != "" || r != "" {
				execute(whole)
			}
			s = m.Content
		case "user":
			if r != "" {
				execute(whole)
			}
			p = m.Content
		case "assistant":
			r = m.Content
		}
	}
	execute(last)
	return out.String()
}

func main() {
	b, err := os.ReadFile("conversations.json")
	check(err)
	var conversations map[string]conversation
	check(json.Unmarshal(b, &conversations))
	var names []string
	for name := range conversations {
		names = append(names, name)
	}
	sort.Strings(names)
	paths, err := filepath.Glob("go/*.gotmpl")
	check(err)
	for _, path := range paths {
		source, err := os.ReadFile(path)
		check(err)
		var out strings.Builder
		for _, name := range names {
			fmt.Fprintf(&out, "=== %s\n%s\n", name, render(string(source), conversations[name]))
		}
		check(os.WriteFile(strings.TrimSuffix(path, "gotmpl")+"expected", []byte(out.String()), 0o644))
	}
}
