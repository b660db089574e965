/**
 * The graph as text for Graphviz and Mermaid. Sources are boxes, derived pages rounded boxes, edges name the
 * input's role.
 */
import type { GraphEdge, GraphNode } from '../../engine/types.js'

interface GraphView {
  readonly nodes: readonly GraphNode[]
  readonly edges: readonly GraphEdge[]
}

const labelOf = ({ name, op }: GraphNode, newline: string): string =>
  op === undefined ? name : `${name}${newline}${op}`

/** Page names need no escaping inside quotes. */
export function toDot({ nodes, edges }: GraphView): string {
  const nodeLines = nodes.map((node) => {
    const style = node.kind === 'source' ? 'shape=box' : 'shape=box, style=rounded'
    return `  "${node.name}" [label="${labelOf(node, '\\n')}", ${style}];`
  })
  const edgeLines = edges.map(({ from, to, input }) => `  "${from}" -> "${to}" [label="${escaped(input)}"];`)
  return ['digraph mmsb {', '  rankdir=LR;', ...nodeLines, ...edgeLines, '}', ''].join('\n')
}

/** Mermaid allows few characters in an id, so nodes are numbered. */
export function toMermaid({ nodes, edges }: GraphView): string {
  const ids = new Map(nodes.map(({ name }, i) => [name, `n${i}`]))
  const nodeLines = nodes.map((node) => {
    const label = `"${labelOf(node, '<br/>')}"`
    return `  ${ids.get(node.name)}${node.kind === 'source' ? `[${label}]` : `(${label})`}`
  })
  const edgeLines = edges.map(
    ({ from, to, input }) => `  ${ids.get(from)} -->|"${escaped(input)}"| ${ids.get(to)}`,
  )
  return ['flowchart LR', ...nodeLines, ...edgeLines, ''].join('\n')
}

const escaped = (text: string): string => text.replace(/[^A-Za-z0-9_.:-]/g, '_')
