package input

import _ "embed"

// SchemaJSON is the closed JSON schema of the document. Rules are compiled with
// it, so that a misspelt field is an error and not a rule that never fires. It is
// made from the structs by TestSchemaIsGenerated.
//
//go:embed schema.json
var SchemaJSON []byte
