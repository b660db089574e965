/** What a check of `mmsb doctor` found. */

/**
 * `note`: worth knowing. `warning`: it works, but not as it should. `failed`: it does not work, which is the
 * exit code of the command.
 */
export type Level = 'ok' | 'note' | 'warning' | 'failed'

export interface Finding {
  readonly name: string
  readonly level: Level
  readonly detail: string
  /** What to do about it. */
  readonly advice?: string
}

export const ok = (name: string, detail: string): Finding => ({ name, level: 'ok', detail })
export const note = (name: string, detail: string): Finding => ({ name, level: 'note', detail })
export const warning = (name: string, detail: string, advice: string): Finding => ({
  name,
  level: 'warning',
  detail,
  advice,
})
export const failed = (name: string, detail: string, advice: string): Finding => ({
  name,
  level: 'failed',
  detail,
  advice,
})

/** A check that fails by an error is a finding too. */
export async function checked(
  name: string,
  advice: string,
  check: () => Finding[] | Promise<Finding[]>,
): Promise<Finding[]> {
  try {
    return await check()
  } catch (error) {
    return [failed(name, (error as Error).message, advice)]
  }
}
