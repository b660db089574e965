/**
 * Epochs as JSON text. JSON.stringify would write -0 as 0, in the values of deltas and the fill of pages.
 */
import type { EpochInfo, EpochList, EpochOp } from '../../engine/types.js'
import { jsonValuesText, jsonValueText } from '../../state/value.js'

export const epochListText = ({ epochs, ...rest }: EpochList): string =>
  withField(rest, 'epochs', listText(epochs, epochInfoText))

export const epochInfoText = ({ transactions, ...rest }: EpochInfo): string =>
  withField(
    rest,
    'transactions',
    listText(transactions, ({ ops, ...transaction }) => withField(transaction, 'ops', listText(ops, opText))),
  )

function opText(op: EpochOp): string {
  if ('values' in op) {
    const { values, ...rest } = op
    return withField(rest, 'values', jsonValuesText(values))
  }
  if (!('fill' in op) || op.fill === undefined) return JSON.stringify(op)
  const { fill, ...rest } = op
  return withField(rest, 'fill', jsonValueText(fill))
}

const listText = <T>(list: readonly T[], text: (entry: T) => string): string =>
  `[${list.map(text).join(',')}]`

/** The text of an object that has fields already, with one more behind them. */
const withField = (object: object, name: string, text: string): string =>
  `${JSON.stringify(object).slice(0, -1)},"${name}":${text}}`
