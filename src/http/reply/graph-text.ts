/**
 * The graph as JSON and as text for Graphviz and Mermaid, made a line at a time. Sources are boxes, derived
 * pages rounded boxes, edges name the input's role.
 */
import type { GraphEdge, GraphNode } from '../../engine/types.js'
import { listed } from './sliced-body.js'

interface GraphView {
  readonly nodes: Iterable<GraphNode>
  readonly edges: Iterable<GraphEdge>
}

/** `{"nodes":[...],"edges":[...]}`, an entry at a time. */
export function* toJson({ nodes, edges }: GraphView): Generator<string> {
  yield '{"nodes":['
  yield* listed(nodes)
  yield '],"edges":['
  yield* listed(edges)
  yield ']}'
}

const labelOf = ({ name, op }: GraphNode, newline: string): string =>
  op === undefined ? name : `${name}${newline}${op}`

/** Page names need no escaping inside quotes. */
export function* toDot({ nodes, edges }: GraphView): Generator<string> {
  yield 'digraph mmsb {\n  rankdir=LR;\n'
  for (const node of nodes) {
    const style = node.kind === 'source' ? 'shape=box' : 'shape=box, style=rounded'
    yield `  "${node.name}" [label="${labelOf(node, '\\n')}", ${style}];\n`
  }
  for (const { from, to, input } of edges) yield `  "${from}" -> "${to}" [label="${escaped(input)}"];\n`
  yield '}\n'
}

/** Mermaid allows few characters in an id, so nodes are numbered. */
export function* toMermaid({ nodes, edges }: GraphView): Generator<string> {
  const ids = new Map<string, string>()
  yield 'flowchart LR\n'
  for (const node of nodes) {
    const id = `n${ids.size}`
    ids.set(node.name, id)
    const label = `"${labelOf(node, '<br/>')}"`
    yield `  ${id}${node.kind === 'source' ? `[${label}]` : `(${label})`}\n`
  }
  for (const { from, to, input } of edges) {
    yield `  ${ids.get(from)} -->|"${escaped(input)}"| ${ids.get(to)}\n`
  }
}

const escaped = (text: string): string => text.replace(/[^A-Za-z0-9_.:-]/g, '_')
