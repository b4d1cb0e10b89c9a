// An agent on the official Go SDK. The commands are those of ../clients/agent.py; the SDK's HTTP client is that of
// net/http, as it comes.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

type command struct{ Do, URL, Mode, Tool, Text string }

var session *mcp.ClientSession

func say(line map[string]any) {
	told, _ := json.Marshal(line)
	fmt.Println(string(told))
}

func connect(ctx context.Context, told command) (any, error) {
	client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, &mcp.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, note *mcp.ProgressNotificationClientRequest) {
			say(map[string]any{"progress": note.Params.Progress})
		},
	})
	options := &mcp.ClientSessionOptions{}
	if told.Mode == "legacy" {
		options.ProtocolVersion = "2025-11-25"
	}
	opened, err := client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: told.URL}, options)
	if err != nil {
		return nil, err
	}
	session = opened
	return session.InitializeResult().ProtocolVersion, nil
}

func list(ctx context.Context) (any, error) {
	names := []string{}
	for tool, err := range session.Tools(ctx, nil) {
		if err != nil {
			return nil, err
		}
		names = append(names, tool.Name)
	}
	return names, nil
}

func call(ctx context.Context, told command) (any, error) {
	request := &mcp.CallToolParams{Name: told.Tool, Arguments: map[string]any{"text": told.Text}}
	request.SetProgressToken("progress")
	result, err := session.CallTool(ctx, request)
	if err != nil {
		return nil, err
	}
	text, ok := result.Content[0].(*mcp.TextContent)
	if !ok {
		return nil, errors.New("the answer is no text")
	}
	return text.Text, nil
}

func act(ctx context.Context, told command) (any, error) {
	if told.Do == "connect" {
		return connect(ctx, told)
	}
	if session == nil {
		return nil, errors.New("the session is gone")
	}
	switch told.Do {
	case "list":
		return list(ctx)
	case "call":
		return call(ctx, told)
	default:
		closing := session
		session = nil
		return nil, closing.Close()
	}
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var told command
		if err := json.Unmarshal(lines.Bytes(), &told); err != nil {
			panic(err)
		}
		if value, err := act(context.Background(), told); err != nil {
			say(map[string]any{"ok": false, "error": err.Error()})
		} else {
			say(map[string]any{"ok": true, "value": value})
		}
	}
}
