/**
 * The names in certificates: DNS names and URIs among the subject's alternative names. The subject itself and
 * all other kinds of names say nothing.
 */

/**
 * A name of a certificate as it is looked up: a URI has a colon, a DNS name has none. The kind stands before
 * it, so that what is certified as the one never passes for the other.
 */
export const nameKey = (name: string): string =>
  name.includes(':') ? `URI:${name}` : `DNS:${name.toLowerCase()}`

/** What a name in the auth file may be. No `*`: a certificate for many names names nobody. */
export const CERTIFICATE_NAME = /^[!-)+-~]{1,500}$/

/** The names in the text that Node makes of a certificate, each with its kind, as `nameKey` writes them. */
export function namesOf(alternatives: string): readonly string[] {
  const names: string[] = []
  // A value that could be taken for more than one is written as a JSON string.
  for (const [, kind, quoted, plain] of alternatives.matchAll(
    /([A-Za-z ]+):(?:("(?:[^"\\]|\\.)*")|([^,]*))(?:, |$)/gy,
  )) {
    const value = quoted === undefined ? (plain as string) : (JSON.parse(quoted) as string)
    if (kind === 'DNS') names.push(`DNS:${value.toLowerCase()}`)
    else if (kind === 'URI') names.push(`URI:${value}`)
  }
  return names
}
