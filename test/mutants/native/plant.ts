/** Writes a fault into a source, beside what is right there. */
import type { Fault } from './faults.js'

/** A fault by what it does: numbers change when the list does. */
export function nameOf({ file, right, wrong }: Fault): string {
  return `${file}: ${right} -> ${wrong === '' ? 'nothing' : wrong}`
}

/** The parts of `right` before, inside and after the double braces. */
function partsOf(right: string): [string, string, string] {
  const parts = /^(.*)\{\{(.*)\}\}(.*)$/s.exec(right)
  return parts === null ? ['', right, ''] : [parts[1]!, parts[2]!, parts[3]!]
}

/** The text with something else in the place of what is right. */
function put(source: string, fault: Fault, other: (right: string) => string): string {
  const [before, right, after] = partsOf(fault.right)
  const whole = before + right + after
  const at = source.indexOf(whole)
  if (at < 0 || source.indexOf(whole, at + 1) >= 0) {
    throw new Error(`${nameOf(fault)}: ${fault.file} must contain once: ${whole}`)
  }
  return source.slice(0, at) + before + other(right) + after + source.slice(at + whole.length)
}

/** The text with a switch between the right and the wrong code of fault `number`. */
export function plant(source: string, fault: Fault, number: number): string {
  return put(source, fault, (right) =>
    fault.isStatement === true
      ? `if (mmsbFault == ${number}) { ${fault.wrong} } else { ${right} }`
      : `(mmsbFault == ${number} ? (${fault.wrong}) : (${right}))`,
  )
}

/** The text with only the wrong code. */
export function replaced(source: string, fault: Fault): string {
  return put(source, fault, () => (fault.isStatement === true ? `{ ${fault.wrong} }` : `(${fault.wrong})`))
}
