package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// Shells lists the shells that Completion knows.
func Shells() []string { return []string{"bash", "zsh", "fish"} }

// Completion makes the script that completes a command line: its commands,
// flags, values from a fixed list, and files where a flag names one.
func Completion(shell string, app *kong.Node) (string, error) {
	m := completionModel(app)
	switch shell {
	case "bash":
		return m.bash(), nil
	case "zsh":
		return m.zsh(), nil
	case "fish":
		return m.fish(), nil
	}
	return "", fmt.Errorf("shell %q: use %s", shell, strings.Join(Shells(), ", "))
}

type word struct{ text, help string }

// place is one command: what may follow it.
type place struct {
	// path is "" for the program, "/business/stop" for a command.
	path  string
	words []word
}

type valueFlag struct {
	names  []string
	values []string
	files  bool
}

type model struct {
	name   string
	places []place
	// values are flags that take one; a completion must not take their value
	// for a command.
	values []valueFlag
}

func completionModel(app *kong.Node) model {
	m := model{name: app.Name}
	var walk func(n *kong.Node, path string)
	walk = func(n *kong.Node, path string) {
		p := place{path: path}
		for _, c := range n.Children {
			if !c.Hidden {
				p.words = append(p.words, word{c.Name, c.Help})
			}
		}
		for _, arg := range n.Positional {
			for _, v := range enumOf(arg) {
				p.words = append(p.words, word{v, arg.Help})
			}
		}
		for _, group := range n.AllFlags(true) {
			for _, f := range group {
				p.words = append(p.words, word{"--" + f.Name, f.Help})
				m.addValueFlag(f)
			}
		}
		m.places = append(m.places, p)
		for _, c := range n.Children {
			if !c.Hidden {
				walk(c, path+"/"+c.Name)
			}
		}
	}
	walk(app, "")
	return m
}

func enumOf(v *kong.Value) []string {
	if v.Enum == "" {
		return nil
	}
	var out []string
	for e := range strings.SplitSeq(v.Enum, ",") {
		if e = strings.TrimSpace(e); e != "" {
			out = append(out, e)
		}
	}
	return out
}

func (m *model) addValueFlag(f *kong.Flag) {
	if f.IsBool() || f.IsCounter() || slices.ContainsFunc(m.values, func(v valueFlag) bool { return v.names[0] == "--"+f.Name }) {
		return
	}
	v := valueFlag{names: []string{"--" + f.Name}, values: enumOf(f.Value)}
	if f.Short != 0 {
		v.names = append(v.names, "-"+string(f.Short))
	}
	// kong's own types for files, or the type tag that stands for them.
	v.files = f.Tag != nil && slices.Contains([]string{"path", "existingfile", "existingdir", "filecontent"}, f.Tag.Type)
	m.values = append(m.values, v)
}

func texts(words []word) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w.text
	}
	return out
}

func (m model) ident() string { return "_" + strings.NewReplacer("-", "_", ".", "_").Replace(m.name) }

// paths are the commands as shell patterns.
func (m model) paths() []string {
	var out []string
	for _, p := range m.places {
		if p.path != "" {
			out = append(out, p.path)
		}
	}
	return out
}

// valueCases are the arms of a shell case over the flag before the cursor.
func (m model) valueCases(files, list, nothing string) string {
	var b strings.Builder
	for _, v := range m.values {
		action := nothing
		switch {
		case len(v.values) > 0:
			action = fmt.Sprintf(list, strings.Join(v.values, " "))
		case v.files:
			action = files
		}
		fmt.Fprintf(&b, "    %s) %s; return ;;\n", strings.Join(v.names, "|"), action)
	}
	return b.String()
}

func (m model) allValueNames() string {
	var out []string
	for _, v := range m.values {
		out = append(out, v.names...)
	}
	return strings.Join(out, "|")
}

func (m model) bash() string {
	var b strings.Builder
	fmt.Fprintf(&b, `# bash completion for %[1]s; load it with: source <(%[1]s completion bash)
%[2]s() {
  local cur="${COMP_WORDS[COMP_CWORD]}" prev="" at="" word skip="" words="" IFS=$' \t\n'
  ((COMP_CWORD > 0)) && prev="${COMP_WORDS[COMP_CWORD-1]}"
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    if [[ -n "$skip" ]]; then skip=""; continue; fi
    case "$word" in
    %[3]s) skip=1; continue ;;
    esac
    case "$at/$word" in
    %[4]s) at="$at/$word" ;;
    esac
  done
  COMPREPLY=()
  case "$prev" in
`, m.name, m.ident(), m.allValueNames(), strings.Join(m.paths(), "|"))
	b.WriteString(m.valueCases(`local IFS=$'\n'; COMPREPLY=($(compgen -f -- "$cur"))`, `COMPREPLY=($(compgen -W %q -- "$cur"))`, ":"))
	b.WriteString("  esac\n  case \"$at\" in\n")
	for _, p := range m.places {
		fmt.Fprintf(&b, "    %q) words=%q ;;\n", p.path, strings.Join(texts(p.words), " "))
	}
	fmt.Fprintf(&b, `  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o bashdefault -F %s %s
`, m.ident(), m.name)
	return b.String()
}

// zshQuote writes a single-quoted word.
func zshQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (m model) zsh() string {
	var b strings.Builder
	fmt.Fprintf(&b, `#compdef %[1]s
# zsh completion for %[1]s; save it as %[2]s in a directory of $fpath
%[2]s() {
  local at="" word skip="" prev="${words[CURRENT-1]}"
  local -a found
  for word in "${(@)words[2,CURRENT-1]}"; do
    if [[ -n "$skip" ]]; then skip=""; continue; fi
    case "$word" in
    %[3]s) skip=1; continue ;;
    esac
    case "$at/$word" in
    %[4]s) at="$at/$word" ;;
    esac
  done
  case "$prev" in
`, m.name, m.ident(), m.allValueNames(), strings.Join(m.paths(), "|"))
	b.WriteString(m.valueCases("_files", "compadd %s", "_message 'a value'"))
	b.WriteString("  esac\n  case \"$at\" in\n")
	for _, p := range m.places {
		fmt.Fprintf(&b, "    %q) found=(", p.path)
		for _, w := range p.words {
			b.WriteString("\n      " + zshQuote(strings.ReplaceAll(w.text, ":", `\:`)+":"+firstSentence(w.help)))
		}
		b.WriteString(") ;;\n")
	}
	fmt.Fprintf(&b, `  esac
  _describe %s found
}
if [[ "$funcstack[1]" == %s ]]; then %s "$@"; else compdef %s %s; fi
`, m.name, m.ident(), m.ident(), m.ident(), m.name)
	return b.String()
}

func (m model) fish() string {
	var b strings.Builder
	fn := "_" + m.ident() + "_at"
	fmt.Fprintf(&b, `# fish completion for %[1]s; save it as ~/.config/fish/completions/%[1]s.fish
function %[2]s
  set -l at ""
  set -l skip ""
  for word in (commandline -opc)[2..-1]
    if test -n "$skip"
      set skip ""
      continue
    end
    switch $word
      case %[3]s
        set skip 1
        continue
    end
    switch "$at/$word"
      case %[4]s
        set at "$at/$word"
    end
  end
  test "$at" = "$argv[1]"
end
complete -c %[1]s -f
`, m.name, fn, strings.ReplaceAll(m.allValueNames(), "|", " "), strings.Join(m.paths(), " "))
	for _, p := range m.places {
		for _, w := range p.words {
			condition := fishQuote(fmt.Sprintf("%s %q", fn, p.path))
			flag, isFlag := strings.CutPrefix(w.text, "--")
			if !isFlag {
				fmt.Fprintf(&b, "complete -c %s -n %s -a %s -d %s\n", m.name, condition, w.text, fishQuote(firstSentence(w.help)))
				continue
			}
			extra := ""
			for _, v := range m.values {
				switch {
				case v.names[0] != w.text:
				case len(v.values) > 0:
					extra = " -x -a " + fishQuote(strings.Join(v.values, " "))
				case v.files:
					extra = " -r -F"
				default:
					extra = " -x"
				}
			}
			fmt.Fprintf(&b, "complete -c %s -n %s -l %s%s -d %s\n", m.name, condition, flag, extra, fishQuote(firstSentence(w.help)))
		}
	}
	return b.String()
}

// fishQuote writes a single-quoted word; fish knows \' inside it.
func fishQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

func firstSentence(help string) string {
	s, _, _ := strings.Cut(Clean(help), ". ")
	return strings.TrimSuffix(s, ".")
}
